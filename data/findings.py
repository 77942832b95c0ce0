"""Findings about data: training logs them as warnings or stops with an error, and the audit lists them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from backbones.errors import BadInput

Severity = Literal["error", "warning", "note"]
EXAMPLES = 12  # examples that a finding has
SHOWN = 5  # examples in its text

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Finding:
    """A problem or property of a data set.

    Attributes:
        severity: "error" ends a training or makes its scores wrong, "warning" may do so, "note" is for information.
        what: the cause, with numbers.
        fix: what to do, without a full stop; "" if `what` says it.
        examples: some files, classes or ids.
        files: some images that show it.
        settings: flags of the settings that are named in backticks, see `UserError`.
    """

    severity: Severity
    what: str
    fix: str = ""
    examples: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    settings: tuple[str, ...] = ()

    @classmethod
    def of_files(cls, severity: Severity, what: str, fix: str, files: Sequence[Path]) -> Finding:
        """A finding with files as examples."""
        return cls(severity, what, fix, tuple(str(file) for file in files[:EXAMPLES]), tuple(files[:EXAMPLES]))

    @property
    def text(self) -> str:
        """All of it as one message, with a few of the examples."""
        examples = ", ".join(self.examples[:SHOWN]) + (", ..." if len(self.examples) > SHOWN else "")
        return self.what + (f": {examples}" if examples else "") + (f". {self.fix}" if self.fix else "")


def warn_or_raise(findings: Iterable[Finding]) -> None:
    """Log the warnings. Raise BadInput for the first error."""
    found = list(findings)
    for finding in found:
        if finding.severity == "warning":
            log.warning("%s", finding.text, extra={"finding": finding})
    for finding in found:
        if finding.severity == "error":
            raise BadInput(finding.text, settings=finding.settings)


@contextmanager
def collected(findings: list[Finding]) -> Iterator[None]:
    """Within the context, add what this package would log as a warning to `findings` instead, each once."""
    logger = logging.getLogger(__package__)
    before = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.level, logger.propagate = [_Collector(findings)], logging.WARNING, False
    try:
        yield
    finally:
        logger.handlers, logger.level, logger.propagate = before


class _Collector(logging.Handler):
    def __init__(self, findings: list[Finding]) -> None:
        super().__init__(logging.WARNING)
        self.findings = findings

    def emit(self, record: logging.LogRecord) -> None:
        finding = getattr(record, "finding", None) or Finding("warning", record.getMessage())
        if finding not in self.findings:
            self.findings.append(finding)
