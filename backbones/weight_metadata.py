"""What the metadata of a safetensors file states about its weights. `docs/guides/own-backbone.md` lists the keys."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from backbones.errors import BadInput
from backbones.pretraining import group_of_text

log = logging.getLogger(__name__)

CHANNELS = 3  # values of `mean` and `std`


def metadata_of(file: Path) -> dict[str, str]:
    """The metadata of a safetensors file: key -> text. Empty for other files and for files without metadata."""
    if file.suffix != ".safetensors":
        return {}
    with safe_open(file, "pt") as content:
        return dict(content.metadata() or {})


def stated_facts(metadata: Mapping[str, str], file: Path) -> dict[str, Any]:
    """Values for fields of `Provenance` from the metadata of a file.

    Raises BadInput for values that cannot be read.
    """
    known: dict[str, Any] = {}
    for name in ("license", "interpolation"):
        if metadata.get(name):
            known[name] = metadata[name]
    if metadata.get("source"):
        known["origin"] = metadata["source"]
    if metadata.get("pretraining"):
        method, _, data = metadata["pretraining"].partition(",")
        known |= {"method": method.strip(), "data": data.strip() or None}
        known["group"] = group_of_text(metadata["pretraining"])
    known |= _of_input(metadata.get("input", ""), file)
    for name in ("mean", "std"):
        if name in metadata:
            known[name] = _numbers(metadata[name], name, CHANNELS, file)
    if "input_size" in metadata:
        sides = _numbers(metadata["input_size"].replace("x", " "), "input_size", None, file)
        known["input_size"] = (int(sides[0]), int(sides[-1]))
    if "crop_pct" in metadata:
        known["crop_pct"] = _numbers(metadata["crop_pct"], "crop_pct", 1, file)[0]
    if any(value <= 0 for name in ("std", "input_size") for value in known.get(name, ())):
        raise BadInput(f"the metadata of {file} cannot be read: `std` and `input_size` must be positive.")
    return known


def _of_input(text: str, file: Path) -> dict[str, Any]:
    """`mean` and `std` in a description such as "RGB, 0-1, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"."""
    if re.search(r"\bBGR\b|\b0[-–.]+255\b", text):
        log.warning('%s expects the input "%s", but images here are RGB from 0 to 1', file, text)
    found = {name: re.search(rf"\b{name}((?:[\s,]+\d+(?:\.\d*)?)+)", text) for name in ("mean", "std")}
    return {name: _numbers(match[1], "input", CHANNELS, file) for name, match in found.items() if match is not None}


def _numbers(text: str, key: str, count: int | None, file: Path) -> tuple[float, ...]:
    """Numbers separated by spaces or commas, in brackets or not. Raises BadInput for other text and another count."""
    try:
        values = tuple(float(word) for word in re.split(r"[\s,]+", text.strip("[]() \t,")))
    except ValueError:
        values = ()
    if not values or any(value != value for value in values) or (count is not None and len(values) != count):
        wanted = "numbers" if count is None else f"{count} number{'' if count == 1 else 's'}"
        raise BadInput(f"the metadata of {file} cannot be read: '{key}' is '{text.strip()}', not {wanted}.")
    return values
