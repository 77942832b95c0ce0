"""`python -m experiments.serve --runs A B`: predictions of runs in a browser and over HTTP, on this machine only."""

from __future__ import annotations

from engine.cli import command
from experiments.serve.config import ServeConfig

DESCRIPTION = (
    "Show the predictions of runs for a photo next to each other, in a browser. Programs send a photo to the same "
    "address and receive the predictions as JSON. Only this machine can connect. Stop it with Ctrl-C."
)


def run(config: ServeConfig) -> None:
    """Load the runs and answer requests until the process is stopped."""
    from experiments.serve.runner import serve

    serve(config)


main = command("experiments.serve", ServeConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
