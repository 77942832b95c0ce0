"""Settings of `python -m experiments.audit`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from backbones.errors import UserError
from data.options import BoxOptions, ClassOptions, MaskOptions


@dataclass
class AuditData(BoxOptions, MaskOptions, ClassOptions):
    """How to read the data set, with the flags of training."""


@dataclass
class AuditConfig:
    """Settings of `audit`."""

    root: str
    """Folder of the data set, or its configuration file."""
    quick: bool = False
    """Print what was recognised, the splits, classes, sizes and first problems, and write a picture of some labelled
    images. Takes seconds: only some of the images are read."""
    kind: Literal["boxes", "masks", "classes"] | None = None
    """Kind of labels to read, if the data set has several. By default that of the format that fits best."""
    image_size: int = 512
    """Side of the square input, in pixels, that anchors are checked for."""
    output: str | None = None
    """Folder for audit.json and pictures. By default runs/audit/NAME, with the name of the data set."""
    data: AuditData = field(default_factory=AuditData)

    def check(self) -> None:
        """Raise UserError for values out of range."""
        if self.image_size < 1:
            raise UserError(f"--image_size {self.image_size} is too small: it must be at least 1")
