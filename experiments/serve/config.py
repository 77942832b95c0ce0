"""Settings of `python -m experiments.serve`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from backbones.errors import UserError

LOOPBACK = {"127.0.0.1": "127.0.0.1", "localhost": "127.0.0.1", "::1": "::1"}  # accepted host -> address


@dataclass
class ServeConfig:
    """Settings of `serve`."""

    runs: list[str] = field(default_factory=list)
    """Run folders or checkpoint files, of any tasks."""
    port: int = 8000
    """TCP port; 0 for any free one."""
    host: str = "127.0.0.1"
    """Address of this machine to listen at: 127.0.0.1, localhost or ::1. Other machines cannot connect."""
    origins: list[str] = field(default_factory=list)
    """Other addresses at which browsers see the page, such as https://demo.example.org for a proxy in front."""
    exif: Literal["apply", "ignore"] = "apply"
    """EXIF orientation of photographs: apply turns them upright, ignore keeps the pixels as stored."""
    max_megabytes: int = 32
    """Largest upload, in MB."""
    max_megapixels: int = 50
    """Largest image, in megapixels."""
    waiting: int = 16
    """Largest number of photos at a time, in progress or waiting. Further requests are asked to try again later."""

    def check(self) -> None:
        """Raise UserError for settings that cannot be served."""
        if not self.runs:
            raise UserError("--runs is required: one or several run folders, such as --runs runs/detection/lite0")
        if self.host not in LOOPBACK:
            raise UserError(
                f"--host {self.host}: serve listens on this machine only, at 127.0.0.1, localhost or ::1. For access "
                "from another machine, forward the port (ssh -L 8000:127.0.0.1:8000), or put a proxy with access "
                "control in front"
            )
        if not 0 <= self.port <= 65535:
            raise UserError(f"--port {self.port} must be from 0 to 65535")
        for name in ("max_megabytes", "max_megapixels", "waiting"):
            if getattr(self, name) < 1:
                raise UserError(f"--{name} {getattr(self, name)} is too small: at least 1")
        for origin in self.origins:
            parts = urlsplit(origin)
            if (
                parts.scheme not in ("http", "https")
                or not parts.netloc
                or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise UserError(f"--origins {origin} must have the form https://HOST or https://HOST:PORT")
