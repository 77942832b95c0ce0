"""`python -m experiments.profile`: what backbones cost on this machine, whole and in parts."""

from __future__ import annotations

from engine.cli import command
from experiments.profile.config import ProfileConfig

DESCRIPTION = (
    "Parameters, multiply-adds, activations, latency and throughput of networks on this machine: backbone, neck and "
    "head apart and together. Nothing is trained, and weights are random."
)


def run(config: ProfileConfig) -> None:
    """Measure and report."""
    from experiments.profile.runner import profile

    profile(config)


main = command("experiments.profile", ProfileConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
