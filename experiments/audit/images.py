"""Checks every image with its labels: files that cannot be read, labels that do not fit, unusual formats."""

from __future__ import annotations

import hashlib
import io
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from backbones.errors import BadInput, with_flags
from data.findings import EXAMPLES, Finding, Severity
from data.images import FORMATS, decode_image, read_header
from data.scan import Headers
from experiments.audit.duplicates import Fingerprint, duplicate_findings, small_image
from experiments.audit.labels import class_counts
from experiments.audit.splits import AuditedSplit, error_of

SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png", ".apng"), "WEBP": (".webp",),
            "BMP": (".bmp", ".dib"), "GIF": (".gif",), "TIFF": (".tif", ".tiff"), "AVIF": (".avif",), "JXL": (".jxl",),
            "PPM": (".ppm", ".pgm", ".pbm", ".pnm")}  # fmt: skip
KINDS = 8  # different reasons for which labels do not fit that are listed
_NAMES = re.compile(r"\S*[/\d]\S*")  # numbers and files in a message, which differ between images
PLAIN_MODES = ("RGB", "L", "P", "RGBA", "1", "I;16", "I;16B", "I")  # 16 bits have a finding of their own


@dataclass(frozen=True)
class ImageCheck:
    """The check of one image.

    Attributes:
        file: the image file.
        problem: why it cannot be read; None if it can, "" if it is absent, which training reports. The other attributes
            are set for readable files only.
        label_problem: why training refuses it with its labels; None if it does not.
        header: height, width, orientation, bits, bands and whether it is a TIFF, see `data.scan.Headers`.
        fingerprint: what duplicates are found by.
        oddities: keys of `ODDITIES`.
        counts: pixels of each class, see `class_counts`; None without masks.
    """

    file: Path
    problem: str | None = None
    label_problem: str | None = None
    header: tuple[int, int, int, int, int, bool] = (0, 0, 1, 8, 3, False)
    fingerprint: Fingerprint | None = None
    oddities: tuple[str, ...] = ()
    counts: np.ndarray | None = None


def check_split(split: AuditedSplit, workers: int) -> Iterator[ImageCheck]:
    """Check the images of a split in several threads. Yields the checks in the order of the images."""
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda index: check_image(split, index), range(len(split.columns)))


def check_image(split: AuditedSplit, index: int) -> ImageCheck:
    """Read and check an image of a split with its labels."""
    columns, dataset = split.columns, split.dataset
    file = columns.folder / columns.names[index]
    try:
        content = file.read_bytes() if columns.content is None else columns.content(index)
    except (OSError, ValueError, BadInput) as error:
        is_reported = isinstance(error, FileNotFoundError) and dataset is not None
        problem = "" if is_reported else f"{file}: {getattr(error, 'strerror', None) or error}"
        return ImageCheck(file, problem)
    return check_content(content, file, dataset, index)


def check_content(content: bytes, file: Path, dataset: Any = None, index: int = 0) -> ImageCheck:
    """Check an encoded image, with the labels that `dataset` has for it."""
    label_problem, counts = None, None
    channels = None if dataset is None else dataset.channels
    decode = decode_image if channels is None else channels.decode
    try:
        try:
            if dataset is None:
                pixels = decode(content, file)
            else:
                sample = dataset.read(index)
                pixels = sample.image
                counts = None if sample.mask is None else class_counts(sample.mask)
        except BadInput as error:
            pixels = decode(content, file)
            label_problem = None if _is_mask_absent(dataset, index) else with_flags(error)
        header = read_header(content)
        mode = ""
        if channels is None:
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                mode = image.mode
    except Exception as error:  # whatever a damaged file causes, the audit has to report it and to continue
        return ImageCheck(file, problem=error_of(error, file).text)
    oddities = []
    if mode and mode not in PLAIN_MODES:
        oddities.append("mode")
    if file.suffix.lower() not in SUFFIXES.get(header.kind, (file.suffix.lower(),)):
        oddities.append("suffix")
    shape = header.height, header.width, header.orientation, header.bits, header.bands, header.kind == "TIFF"
    fingerprint = Fingerprint(file, hashlib.sha256(content).hexdigest(), small_image(pixels))
    return ImageCheck(file, None, label_problem, shape, fingerprint, tuple(oddities), counts)


def _is_mask_absent(dataset: Any, index: int) -> bool:
    """Whether there is no mask file, which is reported when the split is opened."""
    files = getattr(dataset.columns, "mask_files", ()) if dataset is not None else ()
    return bool(files) and not files[index].is_file()


def headers_of(checks: Sequence[ImageCheck]) -> Headers:
    """The headers of all images of a split."""
    rows = np.array([check.header for check in checks], np.int64).reshape(-1, 6)
    return Headers(np.arange(len(checks)), rows[:, :2], rows[:, 2], rows[:, 3], rows[:, 4], rows[:, 5] > 0)


ODDITIES: dict[str, tuple[Severity, str, str]] = {
    "mode": ("note", "images are CMYK or of another rare mode, and are converted", "Check some of them"),
    "suffix": ("note", "files have another format than their names state", "Rename them; they can be read anyway"),
}


def image_findings(checks: dict[str, list[ImageCheck]], listed: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the findings from the checks of each split's images. `listed`: earlier findings, which are not repeated."""
    reported = {finding.what for finding in listed}
    all_checks = [check for split_checks in checks.values() for check in split_checks]
    unreadable = [check for check in all_checks if check.problem]
    if unreadable:
        problems = tuple(str(check.problem) for check in unreadable[:EXAMPLES])
        yield Finding("error", f"{len(unreadable)} images cannot be read",
                      "Fetch them again, or leave them out with --data.skip_bad", problems)  # fmt: skip
    for split, split_checks in checks.items():
        by_kind: dict[str, list[ImageCheck]] = defaultdict(list)
        for check in split_checks:
            if check.label_problem:
                by_kind[_NAMES.sub("", check.label_problem)].append(check)
        for refused in list(by_kind.values())[:KINDS]:
            what = f"{split}: {len(refused)} of {len(split_checks)} images do not fit their labels"
            known = any(check.label_problem in reported for check in refused)
            what += ", for the reason above" if known else f". The first: {refused[0].label_problem}"
            yield Finding.of_files("error", what, "", [check.file for check in refused])
    for name, (severity, what, fix) in ODDITIES.items():
        files = [check.file for check in all_checks if name in check.oddities]
        if files:
            yield Finding.of_files(severity, f"{len(files)} {what}", fix, files)
    yield from duplicate_findings(
        {split: [c.fingerprint for c in own if c.fingerprint is not None] for split, own in checks.items()}
    )
