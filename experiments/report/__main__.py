"""`python -m experiments.report`: write the report of a comparison again, export it, or compare it with another."""

from __future__ import annotations

from pathlib import Path

from engine.cli import command
from experiments.report.config import ReportConfig

DESCRIPTION = (
    "Write the report of a comparison again, export its tables and figures for a paper, or compare its scores with "
    "those of another comparison."
)


def run(config: ReportConfig) -> None:
    """The command."""
    from engine.console import out
    from experiments.report.against import print_against
    from experiments.report.export import export
    from experiments.report.writer import write_report

    folder = Path(config.comparison)
    if config.against is None and config.export is None:
        write_report(folder)
    if config.against is not None:
        print_against(folder, Path(config.against))
    if config.export is not None:
        files = export(folder, Path(config.export))
        out.print(f"{len(files)} files in {config.export}: {', '.join(file.name for file in files)}", markup=False)


main = command("experiments.report", ReportConfig, run, DESCRIPTION)

if __name__ == "__main__":
    main()
