"""`python -m experiments.profile`: costs of backbones on this machine, for each part of a model and the whole."""

from __future__ import annotations

from engine.cli import command
from experiments.profile.config import ProfileConfig

DESCRIPTION = (
    "Measure parameters, multiply-adds, activations, latency and throughput of networks on this machine, for backbone, "
    "neck and head separately and for the whole model. Nothing is trained, and weights are random. With --runs: score, "
    "latency, memory and file size of finished runs, in several runtimes."
)


def run(config: ProfileConfig) -> None:
    """Measure and report."""
    config.check()
    if config.runs:
        from experiments.profile.deployed import profile_runs

        profile_runs(config)
    else:
        from experiments.profile.runner import profile

        profile(config)


main = command("experiments.profile", ProfileConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
