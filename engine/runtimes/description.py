"""What an exported file says of itself: the run that it comes from, and the inputs and outputs of its graph.

The description is one JSON text in the file's metadata, under `KEY`. Some facts stand beside it in metadata of their
own, for people and for programs that do not know this package: `classes`, `mean`, `std`, `size`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from backbones.errors import BadInput
from engine.checkpoint import RunInfo
from engine.schema import SCHEMA, run_fields

KEY = "backbone_swap"

Dynamic = Literal["batch", "size", "none"]


@dataclass(frozen=True)
class Description:
    """A description of an exported file.

    Attributes:
        run: fields of the `RunInfo`, with the version of their schema.
        inputs: the input's name, type and shape; a text is the name of an open dimension.
        outputs: names of the outputs.
        dynamic: open dimensions: "batch", "size" for batch, height and width, or "none".
        multiple: height and width are multiples of this if they are open.
        preprocess: whether the input is a photograph (H, W, 3) uint8 RGB, else normalised images (B, C, H, W) float32.
        postprocess: whether the outputs are results, else what the network computes.
    """

    run: dict[str, Any]
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    dynamic: Dynamic = "batch"
    multiple: int = 1
    preprocess: bool = False
    postprocess: bool = False

    @classmethod
    def of(cls, info: RunInfo, **values: Any) -> Description:
        """The description for a run, and these values of the other attributes."""
        return cls({"schema": SCHEMA, **vars(info)}, **values)

    @property
    def info(self) -> RunInfo:
        """The description of the run."""
        return RunInfo(**run_fields(self.run, Path("the file")))

    def input_array(self, images: Tensor) -> np.ndarray:
        """The graph's input for a batch (B, C, H, W). A graph for photographs takes one image, channels last."""
        if self.preprocess:
            (photo,) = images
            images = photo.permute(1, 2, 0)
        return images.contiguous().cpu().numpy()

    def metadata(self) -> dict[str, str]:
        """The texts to store in the file, by key."""
        preprocessing = self.run["preprocessing"]
        facts = {name: json.dumps(preprocessing[name]) for name in ("mean", "std", "size")}
        return {
            KEY: json.dumps(asdict(self)),
            "task": self.run["task"],
            "classes": json.dumps(self.run["classes"], ensure_ascii=False),
            "channel_order": "RGB",
            **facts,
        }


def description_of(metadata: Mapping[str, str], file: Path) -> Description:
    """The description in a file's metadata. Raises BadInput if there is none, or one that cannot be read."""
    if KEY not in metadata:
        raise BadInput(f"{file} was not written by the export command of this package: it does not say how to use it")
    try:
        values = json.loads(metadata[KEY])
        found = Description(**{**values, "outputs": tuple(values["outputs"])})
        found.info  # noqa: B018 - raises if a field is missing or unknown
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BadInput(f"{file} has a description that this version cannot read ({error})") from error
    return found
