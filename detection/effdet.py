"""Published COCO detectors in effdet's file format: what a file holds, and how its names map to ours."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from backbones.errors import BadInput
from backbones.scaling import SCALES

logger = logging.getLogger(__name__)


def is_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is a whole detector's, in effdet's names or ours."""
    return any(
        key.endswith(("class_net.predict.conv_pw.weight", "class_head.predict.pointwise.weight")) for key in state
    )


def describe(state: Mapping[str, Tensor], file: str, phi: int | str | None = None) -> tuple[str, str, int]:
    """(backbone, phi, classes) of an effdet file, from the shapes in it.

    D6 and D7 differ in input size and anchors alone: there, and wherever a file name says it, the name decides.
    Raises BadInput where shapes fit no member of the family.
    """
    state = _plain(state)
    width = state["box_net.predict.conv_pw.weight"].shape[1]
    repeats = 1 + max(int(m[1]) for key in state if (m := re.match(r"fpn\.cell\.(\d+)\.", key)))
    levels = 1 + max(int(m[1]) for key in state if (m := re.match(r"box_net\.bn_rep\.0\.(\d+)\.", key)))
    lite = not any(".se." in key for key in state)
    fits = [
        name for name, scale in SCALES.items()
        if (scale.width, scale.neck_repeats, scale.num_levels) == (width, repeats, levels)
        and ("lite" in name) == lite and (phi is None or str(phi) == name)
    ]  # fmt: skip
    named = re.search(r"efficientdet_(?:d|(?=lite))(7x|[0-7]|lite\d?x?)", file)
    if len(fits) > 1 and named and named[1] in fits:
        fits = [named[1]]
    if not fits:
        raise BadInput(
            f"{file} is a detector of width {width}, {repeats} BiFPN layers and {levels} levels, which is no "
            f"EfficientDet{f' of phi {phi}' if phi is not None else ''} of this suite"
        )
    if len(fits) > 1:
        raise BadInput(f"{file} fits phi {' and '.join(fits)}, which differ in input size alone: say --phi {fits[0]}")
    backbone = SCALES[fits[0]].backbone.removeprefix("tf_")
    classes = state["class_net.predict.conv_pw.bias"].numel() // (state["box_net.predict.conv_pw.bias"].numel() // 4)
    return ("tf_" if style_of(state) == "tensorflow" else "") + backbone, fits[0], classes


def style_of(state: Mapping[str, Tensor]) -> Literal["pytorch", "tensorflow"]:
    """The style of a whole detector, in effdet's names or ours: only TensorFlow's has biases before batch norm."""
    biases = "class_net.conv_rep.0.conv_pw.bias", "class_head.convs.0.pointwise.bias"
    return "tensorflow" if any(key.endswith(biases) for key in state) else "pytorch"


def load(detector: nn.Module, state: Mapping[str, Tensor], file: str) -> None:
    """Load a whole detector; class layers are dropped, and logged, where class counts differ. Raises BadInput."""
    own = detector.state_dict()
    given = convert(state) if any("class_net." in key for key in state) else _plain(state)
    for key in ("class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias"):
        if key in given and given[key].shape != own[key].shape:
            logger.warning("%s: '%s' dropped, since the number of classes differs", file, key)
            given[key] = own[key]
    missing = sorted(key for key in own.keys() - given.keys() if not key.endswith("num_batches_tracked"))
    unknown = sorted(given.keys() - own.keys())
    wrong = sorted(key for key in own.keys() & given.keys() if own[key].shape != given[key].shape)
    if missing or unknown or wrong:
        raise BadInput(
            f"{file} does not fit this detector: "
            + "; ".join(
                f"{len(keys)} {what} ({', '.join(keys[:2])})"
                for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", wrong))
                if keys
            )
            + ". Name the network it belongs to with --backbone and --phi."
        )
    detector.load_state_dict(own | given)


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """From effdet's names and box order (dy, dx, dh, dw) to ours (dx, dy, dw, dh)."""
    state = _plain(state)
    nodes = {int(m[1]) for key in state if (m := re.match(r"fpn\.cell\.0\.fnode\.(\d+)\.", key))}
    last = len(nodes) // 2  # index of the coarsest level: as many top-down nodes as bottom-up ones
    converted = {}
    for key, value in state.items():
        new = _rename(key, last)
        if new.startswith("box_head.predict.pointwise."):
            order = torch.tensor([1, 0, 3, 2])
            value = value.view(-1, 4, *value.shape[1:])[:, order].flatten(0, 1)
        converted[new] = value
    return converted


def _rename(key: str, last: int) -> str:
    key = re.sub(r"\bconv_dw\.", "depthwise.", key) if not key.startswith("backbone.") else key
    key = re.sub(r"\bconv_pw\.", "pointwise.", key) if not key.startswith("backbone.") else key
    if m := re.fullmatch(r"(class|box)_net\.conv_rep\.(\d+)\.(.*)", key):
        return f"{m[1]}_head.convs.{m[2]}.{m[3]}"
    if m := re.fullmatch(r"(class|box)_net\.bn_rep\.(\d+)\.(\d+)\.(?:bn\.)?(.*)", key):
        return f"{m[1]}_head.norms.{m[3]}.{m[2]}.{m[4]}"
    if m := re.fullmatch(r"(class|box)_net\.predict\.(.*)", key):
        return f"{m[1]}_head.predict.{m[2]}"
    if m := re.fullmatch(r"fpn\.resample\.(\d+)\.conv\.(conv|bn)\.(.*)", key):
        return f"neck.coarser.{int(m[1]) - 3}.0.{_ORDER[m[2]]}.{m[3]}"
    if m := re.fullmatch(r"fpn\.cell\.(\d+)\.fnode\.(\d+)\.(.*)", key):
        layer, node, rest = f"neck.layers.{m[1]}.", int(m[2]), m[3]
        level = last - 1 - node if node < last else node - last + 1
        path = f"top_down.{level}" if node < last else f"bottom_up.{level - 1}"
        if rest == "combine.edge_weights":
            return f"{layer}{path}.weights"
        if p := re.fullmatch(r"combine\.resample\.(\d+)\.conv\.(conv|bn)\.(.*)", rest):
            use = f"project_down.{level}" if node < last else f"project_up.{level - 1}"
            return f"{layer}{use}.{_ORDER[p[2]]}.{p[3]}"
        if p := re.fullmatch(r"after_combine\.conv\.bn\.(.*)", rest):
            return f"{layer}{path}.norm.{p[1]}"
        return f"{layer}{path}.{rest.removeprefix('after_combine.')}"
    return key


_ORDER = {"conv": 0, "bn": 1}  # of a projection: convolution, then batch norm


def _plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the `model.` that effdet's benches and our tasks put first, and without their anchors."""
    plain = {key.removeprefix("model."): value for key, value in state.items()}
    return {key: value for key, value in plain.items() if not key.startswith("anchors.")}
