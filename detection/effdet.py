"""Published COCO detectors in effdet's file format: finds the model of a file and converts parameter names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from backbones.class_layers import fit_class_layer
from backbones.errors import BadInput
from backbones.scaling import SCALES

CLASS_LAYER = ("class_head.predict.pointwise.weight", "class_head.predict.pointwise.bias")


def is_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a complete detector, with effdet's names or ours."""
    return any(
        key.endswith(("class_net.predict.conv_pw.weight", "class_head.predict.pointwise.weight")) for key in state
    )


def describe(state: Mapping[str, Tensor], file: str, phi: int | str | None = None) -> tuple[str, str, int]:
    """(backbone, phi, number of classes) of an effdet file, determined from the shapes of its tensors.

    D6 and D7 have equal shapes; they differ only in input size and anchors. Between models with equal shapes, the file
    name decides.

    Args:
        state: state dict with effdet's names.
        file: file name.
        phi: the compound coefficient, if it is known.

    Raises BadInput if the shapes fit no EfficientDet, or several and the file name does not decide.
    """
    state = _normalised_keys(state)
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
            f"{file} is a detector of width {width}, {repeats} BiFPN layers and {levels} levels, which is not a known "
            f"EfficientDet{f' of phi {phi}' if phi is not None else ''}"
        )
    if len(fits) > 1:
        raise BadInput(
            f"{file} fits phi {' and '.join(fits)}, which differ only in input size and anchors: "
            f"pass `phi={fits[0]!r}`",
            settings=("phi",),
        )
    backbone = SCALES[fits[0]].backbone.removeprefix("tf_")
    classes = state["class_net.predict.conv_pw.bias"].numel() // (state["box_net.predict.conv_pw.bias"].numel() // 4)
    return ("tf_" if style_of(state) == "tensorflow" else "") + backbone, fits[0], classes


def style_of(state: Mapping[str, Tensor]) -> Literal["pytorch", "tensorflow"]:
    """The style of a complete detector with effdet's names or ours: only "tensorflow" has biases before batch norm."""
    biases = "class_net.conv_rep.0.conv_pw.bias", "class_head.convs.0.pointwise.bias"
    return "tensorflow" if any(key.endswith(biases) for key in state) else "pytorch"


def normalisation(phi: int | str, file: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std by channel, for images in 0..1, of a published detector, by compound coefficient and file name.

    google/automl trained the Lite and AdvProp detectors on inputs in -1..1.
    """
    if "lite" in str(phi) or "_ap" in file:
        return (0.5,) * 3, (0.5,) * 3
    from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    return IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD


def load(
    detector: nn.Module,
    state: Mapping[str, Tensor],
    file: str,
    stored: Sequence[str] | None = None,
    wanted: Sequence[str] | None = None,
) -> bool:
    """Load the weights of a complete detector, with effdet's names or ours. Returns whether the class layer is loaded.

    Args:
        detector: the model.
        state: state dict of the file.
        file: name of the file, for messages.
        stored, wanted: class names of the file and of the detector, see `fit_class_layer`.

    Raises BadInput if other names or shapes differ.
    """
    from backbones.weights import adapt_first_convolution  # imports timm

    current = detector.state_dict()
    loaded = convert(state) if any("class_net." in key for key in state) else _normalised_keys(state)
    advice = adapt_first_convolution(current, loaded, {key: key for key in current}, file)
    is_whole = fit_class_layer(loaded, current, CLASS_LAYER, stored, wanted, file)
    missing = sorted(key for key in current.keys() - loaded.keys() if not key.endswith("num_batches_tracked"))
    unknown = sorted(loaded.keys() - current.keys())
    reshaped = sorted(key for key in current.keys() & loaded.keys() if current[key].shape != loaded[key].shape)
    if missing or unknown or reshaped:
        raise BadInput(
            f"{file} does not fit this detector: "
            + "; ".join(
                f"{len(keys)} {what} ({', '.join(keys[:2])})"
                for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
                if keys
            )
            + f". Pass `backbone`, `phi` and `neck` of the detector that the file belongs to.{advice}",
            settings=("backbone", "phi", "neck", "data.channels"),
        )
    detector.load_state_dict(current | loaded)
    return is_whole


def convert(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with effdet's names and box order (dy, dx, dh, dw), converted to ours (dx, dy, dw, dh)."""
    state = _normalised_keys(state)
    nodes = {int(m[1]) for key in state if (m := re.match(r"fpn\.cell\.0\.fnode\.(\d+)\.", key))}
    last = len(nodes) // 2  # index of the coarsest level: there are as many top-down nodes as bottom-up ones
    converted = {}
    for key, value in state.items():
        new_key = _rename(key, last)
        if new_key.startswith("box_head.predict.pointwise."):
            order = torch.tensor([1, 0, 3, 2])
            value = value.view(-1, 4, *value.shape[1:])[:, order].flatten(0, 1)
        converted[new_key] = value
    return converted


def _rename(key: str, last: int) -> str:
    """Our name of effdet's parameter `key`; `last` is the index of the coarsest level."""
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
            projection = f"project_down.{level}" if node < last else f"project_up.{level - 1}"
            return f"{layer}{projection}.{_ORDER[p[2]]}.{p[3]}"
        if p := re.fullmatch(r"after_combine\.conv\.bn\.(.*)", rest):
            return f"{layer}{path}.norm.{p[1]}"
        return f"{layer}{path}.{rest.removeprefix('after_combine.')}"
    return key


_ORDER = {"conv": 0, "bn": 1}  # in a projection: convolution, then batch norm


def _normalised_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict without anchors, and without the prefix `model.` of effdet's benches and our tasks."""
    unprefixed = {key.removeprefix("model."): value for key, value in state.items()}
    return {key: value for key, value in unprefixed.items() if not key.startswith("anchors.")}
