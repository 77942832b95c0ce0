"""What a weight file, or a settings file next to it, states about its network: name, normalisation and origin."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from huggingface_hub.constants import PYTORCH_WEIGHTS_NAME, SAFETENSORS_SINGLE_FILE

from backbones.errors import BadInput
from backbones.pretraining import RUN, pretraining_of
from backbones.weight_files import read_file, weight_file
from backbones.weight_metadata import metadata_of, stated_facts

# What record and messages need to know about a run that a network starts from.
RUN_FIELDS = ("task", "dataset", "classes", "provenance")


@dataclass(frozen=True)
class WeightFacts:
    """Facts that a weight file states. Most files state none.

    Attributes:
        file: the weight file.
        network: name of its network or backbone.
        known: values for fields of `Provenance`.
        run: description of the run, if it is a checkpoint of a run of this package, see `engine.checkpoint.RunInfo`.
        library: the library whose names of parameters it has, if these are not timm's.
        description: its network in words.
    """

    file: Path
    network: str | None = None
    known: dict[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] | None = None
    library: str | None = None
    description: str | None = None


def weight_facts(path: str | Path) -> WeightFacts:
    """The facts about a weight file, or about the weight file in a folder, see `weight_file`.

    They come from the description in a run's checkpoint, from the settings in checkpoints of timm and torchvision, from
    `config.json` next to files of the Hugging Face hub, and from the metadata of safetensors files, which take
    precedence over `config.json`. Raises BadInput if one of these files cannot be read.
    """
    file = weight_file(path)
    content = read_file(file)
    if isinstance(content, Mapping) and isinstance(content.get("run"), Mapping):
        return _of_run(file, content["run"])
    settings_file = file.parent / "config.json"
    if file.name in (SAFETENSORS_SINGLE_FILE, PYTORCH_WEIGHTS_NAME) and settings_file.is_file():
        facts = _of_hub(file, settings_file)
    else:
        facts = _of_training(file, content) if isinstance(content, Mapping) else WeightFacts(file)
    if metadata := metadata_of(file):
        stated = stated_facts(metadata, file)
        return replace(facts, known=facts.known | stated, description=metadata.get("architecture"))
    return facts


def sha256(file: Path) -> str:
    """SHA-256 (hex) of a file's content."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _of_run(file: Path, run: Mapping[str, Any]) -> WeightFacts:
    """A run. Its data are those of its own initial weights, and those that it was trained on."""
    preprocessing, before = run.get("preprocessing", {}), run.get("provenance", {})
    known = _normalisation(preprocessing)
    if run.get("task") == "classification":
        known |= {name: preprocessing[name] for name in ("interpolation", "crop_pct") if name in preprocessing}
        known["input_size"] = tuple(preprocessing["size"])
    data = [text for text in (before.get("data"), run.get("dataset", {}).get("root")) if text]
    known |= {"data": ", ".join(data) or None, "license": before.get("license"), "group": RUN}
    known["run"] = {"path": str(file)} | {name: run[name] for name in RUN_FIELDS if name in run}
    return WeightFacts(file, run.get("config", {}).get("backbone"), known, run)


def _of_hub(file: Path, settings_file: Path) -> WeightFacts:
    """A network of the Hugging Face hub. Older files have timm's settings at the top level, not in `pretrained_cfg`."""
    try:
        settings = json.loads(settings_file.read_text())
        published = settings.get("pretrained_cfg", settings)
        known = _normalisation(published)
        if isinstance(published.get("crop_pct"), int | float):
            known["crop_pct"] = float(published["crop_pct"])
        if "architecture" in settings and "input_size" in published:
            known["input_size"] = tuple(published["input_size"][1:])
        known |= {name: published[name] for name in ("interpolation", "license", "tag") if published.get(name)}
        if "tag" in known:
            known |= asdict(pretraining_of(settings.get("architecture") or "", known["tag"]))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise BadInput(f"{settings_file} cannot be read: {error}") from error
    library = "transformers" if "transformers_version" in settings else None
    return WeightFacts(file, settings.get("architecture"), known, library=library)


def _of_training(file: Path, content: Mapping[str, Any]) -> WeightFacts:
    """A checkpoint of a training program. timm and torchvision store their settings in `args`."""
    settings = content.get("args")
    found = vars(settings) if isinstance(settings, argparse.Namespace) else {}
    named = (content.get("arch"), found.get("model"))
    return WeightFacts(file, next((name for name in named if isinstance(name, str)), None), _normalisation(found))


def _normalisation(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`mean` and `std` among settings. timm's training stores None for the values of the network."""
    return {
        name: tuple(float(value) for value in settings[name])
        for name in ("mean", "std")
        if isinstance(settings.get(name), list | tuple) and len(settings[name]) == 3
    }
