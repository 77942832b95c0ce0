"""`python -m experiments.compare_results`: compare networks by the result files of any tool."""

from __future__ import annotations

from backbones.errors import BadInput
from engine.cli import command
from experiments.compare_results.config import CompareResultsConfig

DESCRIPTION = (
    "Compare networks by their result files, whatever tool wrote them: COCO results of detectors, tables of "
    "classifications, folders of predicted masks. Nothing is trained. Several files of a name are trainings with "
    "several seeds."
)


def run(config: CompareResultsConfig) -> None:
    """Read, compare and report."""
    from experiments.compare_results.runner import compare_results

    try:
        compare_results(config)
    except BadInput as error:  # the data set is named by --truth here, not by --data.root
        settings = ("truth", *error.settings)
        raise BadInput(
            str(error).replace("`root`", "`truth`").replace("`root=", "`truth="), settings=settings
        ) from error


main = command("experiments.compare_results", CompareResultsConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
