"""The joint network: one backbone and one neck, whose maps several heads use. A plain module, without data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from backbones import create_backbone
from backbones.base import Backbone, Neck, neck_inputs, select
from backbones.errors import UserError, unknown_name
from backbones.scaling import Scale, scale_of
from classification.build import classifier_on
from classification.model import Classifier
from detection.config import MAX_DETECTIONS
from detection.model import Detector, create_detector, new_neck
from detection.postprocess import Suppression
from experiments.joint.norms import NormStatistics
from segmentation import decoders
from segmentation.model import Segmenter, create_segmenter

FINEST = {"classification": 8, "detection": 8, "segmentation": 4}  # stride of the finest map that a head needs
MULTIPLE = 32  # heads of all kinds see images whose sides are multiples of this, as segmentation's decoder requires

Head = Detector | Segmenter | Classifier


class JointNetwork(nn.Module):
    """Several networks that have the same backbone and the same neck, which run once for all of them.

    The networks are those of the task packages, not copies. Each also works alone, on images of its own. The state dict
    has the parameters of backbone and neck once, as `backbone.` and `neck.`.

    Args:
        networks: by name of the head, in order. All have the same `backbone` and `neck` objects.

    Attributes:
        backbone, neck: the shared parts.
        networks: name of the head -> its network.
    """

    def __init__(self, networks: Mapping[str, Head]) -> None:
        super().__init__()
        first = next(iter(networks.values()))
        self.backbone: Backbone = first.backbone  # type: ignore[assignment]
        self.neck: Neck = neck_of(first)
        for name, network in networks.items():
            assert network.backbone is self.backbone, f"{name} has another backbone"
            assert neck_of(network) is self.neck, f"{name} has another neck"
        self.networks = nn.ModuleDict(networks)
        self._inputs = neck_inputs(self.backbone, self.neck)
        self.norms: NormStatistics | None = None
        self.groups: list[list[str]] = []

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Normalised images (B, C, H, W) of any size -> the outputs of each head by name, from one pass.

        These are what the head's own network returns: logits (B, A, K) and offsets (B, A, 4) of a detector, logits
        (B, K, H, W) of a segmenter, logits (B, K) of a classifier. A detector's anchors are those of the images padded
        with zeros to multiples of 32.
        """
        size = images.shape[-2], images.shape[-1]
        found: dict[str, Any] = {}
        for names in self.passes():
            pyramid = self.pyramid(images)
            found |= {name: head_outputs(self.networks[name], pyramid, size) for name in names}  # type: ignore[arg-type]
        return {name: found[name] for name in self.networks}

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """The neck's maps of images (B, C, H, W), which are padded with zeros to multiples of 32."""
        height, width = images.shape[-2:]
        maps = self.backbone(F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE)))
        return self.neck([maps[i] for i in self._inputs])

    # --- statistics of batch norm for each data set

    def use_own_norms(self, groups: Sequence[Sequence[str]]) -> None:
        """Give each of several groups of heads, which have data of their own, statistics of batch norm of its own.

        A pass for all heads becomes a pass for each group.
        """
        if len(groups) > 1:
            self.groups = [list(group) for group in groups]
            self.norms = NormStatistics((self.backbone, self.neck), len(groups))

    def passes(self) -> Iterator[list[str]]:
        """The heads of each pass, with the statistics of batch norm for it in use."""
        if self.norms is None:
            yield list(self.networks)
            return
        for number, names in enumerate(self.groups):
            self.norms.use(number)
            yield names

    def use_norms_of(self, name: str) -> None:
        """Use the statistics of batch norm of a head's data."""
        if self.norms is not None:
            self.norms.use(next(i for i, group in enumerate(self.groups) if name in group))

    def trained_on(self, group: int) -> AbstractContextManager[None]:
        """The context of a training pass on the data of a group."""
        return nullcontext() if self.norms is None else self.norms.of(group)

    def heads(self) -> Iterator[tuple[str, Head]]:
        """The networks by name."""
        yield from self.networks.items()  # type: ignore[misc]

    def own_parts(self, name: str) -> dict[str, nn.Module]:
        """The modules that only one head has, by their name in its network."""
        network = self.networks[name]
        parts = dict(network.named_children())
        if isinstance(network, Segmenter):
            parts["decoder"] = network.decoder.head  # type: ignore[assignment]
        return {key: part for key, part in parts.items() if part is not self.backbone and part is not self.neck}

    # --- each shared tensor is stored once

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """As usual, without the second names of shared tensors."""
        state = super().state_dict(*args, **options)
        prefix = options.get("prefix", "")
        for second in self._second_names():
            for key in [key for key in state if key.startswith(prefix + second)]:
                del state[key]
        return state

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        for second, first in self._second_names().items():
            for key in [key for key in state_dict if key.startswith(prefix + first)]:
                state_dict.setdefault(prefix + second + key.removeprefix(prefix + first), state_dict[key])
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _second_names(self) -> dict[str, str]:
        """Prefixes of names in the networks of the heads -> the prefix of the shared part."""
        names = {}
        for name, network in self.heads():
            neck = "decoder.neck." if isinstance(network, Segmenter) else "neck."
            names[f"networks.{name}.backbone."] = "backbone."
            names[f"networks.{name}.{neck}"] = "neck."
        return names


def neck_of(network: Head) -> Neck:
    """The neck of a network of any task."""
    return network.decoder.neck if isinstance(network, Segmenter) else network.neck  # type: ignore[return-value]


def head_outputs(network: Head, pyramid: Sequence[Tensor], size: tuple[int, int]) -> Any:
    """What a network returns for images of (height, width) `size`, from the neck's maps."""
    return network.outputs(pyramid, size) if isinstance(network, Segmenter) else network.outputs(pyramid)


def create_joint(
    backbone: str | Backbone,
    heads: Mapping[str, int | tuple[str, int]],
    phi: int | str = 0,
    pretrained: bool | str | Path = False,
    *,
    anchor_scales: Mapping[str, float] | None = None,
    nms: Suppression = "soft",
    max_detections: int = MAX_DETECTIONS,
    finest: int | None = None,
    channels: int = 3,
    stochastic_depth: float | None = None,
) -> JointNetwork:
    """A joint network on any backbone, with the levels that its heads need: P3 to P7, or P2 to P7 with segmentation.

    A single head is the network of its task with a BiFPN, parameter by parameter. With a segmentation head beside
    others, the neck has the size of segmentation's decoder: at most 128 channels and 3 layers, since P2 has four times
    the cells of P3.

    Args:
        backbone: a name of `list_backbones()`, or a module with maps at strides 8 to 32, and 4 with segmentation.
        heads: name -> number of classes, where the name is classification, detection or segmentation; or name ->
            (one of these, number of classes), for several heads of one kind, such as `{"cells": ("detection", 3)}`.
        phi: compound coefficient of neck and heads: 0..7, "7x", "lite0".."lite4".
        pretrained: weights of the backbone, see `create_backbone`.
        anchor_scales: name of a detection head -> side of the smallest square anchor of a level, in strides; by default
            as published for `phi`.
        nms: of detection heads, see `create_detector`.
        max_detections: the same.
        finest: stride of the neck's finest map, 4 or 8. By default the coarsest that is sufficient for the heads.
        channels: number of channels of the images.
        stochastic_depth: drop rate of the backbone's last residual branch.

    Raises UserError for unknown names and for `finest=8` with a segmentation head, BadInput for missing weights.
    """
    plan = {name: (name, of) if isinstance(of, int) else of for name, of in heads.items()}
    check_heads({name: kind for name, (kind, _) in plan.items()})
    scale = scale_of(phi)
    needed = min(FINEST[kind] for kind, _ in plan.values())
    if finest not in (None, 4, 8) or (finest or needed) > needed:
        raise UserError(f"`finest={finest}`: these heads need 4 or 8, at most {needed}", settings=("finest",))
    finest = finest or needed
    strides = (4, 8, 16, 32)[0 if finest == 4 else 1 :]
    if isinstance(backbone, str):
        backbone = create_backbone(backbone, pretrained, channels=channels, stochastic_depth=stochastic_depth)
        backbone.keep_levels(strides)
    alone = len(plan) == 1 and needed == 4
    neck = None if alone else _neck(backbone, strides, scale)
    networks: dict[str, Head] = {}
    for name, (kind, classes) in plan.items():
        if kind == "segmentation":
            networks[name] = create_segmenter(backbone, classes, phi=phi, neck=neck)
            continue
        assert neck is not None
        if kind == "classification":
            networks[name] = classifier_on(backbone, neck, classes)
        else:
            anchors = (anchor_scales or {}).get(name)
            networks[name] = create_detector(
                backbone, classes, phi, neck, anchor_scale=anchors, nms=nms, max_detections=max_detections
            )
    return JointNetwork(networks)


def check_heads(kinds: Mapping[str, str]) -> None:
    """Raise UserError unless there is a head, and each has a usable name and a known kind."""
    if not kinds:
        raise UserError("`heads` needs at least one head", settings=("heads",))
    for name, kind in kinds.items():
        if kind not in FINEST:
            raise unknown_name("kind of head", kind, FINEST)
        if not name.isidentifier():
            raise UserError(f"`heads`: the name '{name}' must consist of letters, digits and _", settings=("heads",))


def _neck(backbone: Backbone, strides: Sequence[int], scale: Scale) -> Neck:
    if strides[0] == 4:
        return decoders.new_neck([backbone.levels[i] for i in select(backbone.levels, strides)], scale)
    return new_neck("bifpn", backbone, scale)
