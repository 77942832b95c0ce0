"""The classifier: a backbone and a head. A plain module that knows nothing of data or training.

Without a neck it is the published network, cut where its own head begins, so that published weights give published
accuracy. With one, the maps that the neck fuses are pooled.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from backbones import create_backbone
from backbones.adapter import TimmBackbone, build_backbone
from backbones.amoebanet import is_amoebanet
from backbones.architecture import is_efficientnet
from backbones.base import CachedFeatures, select
from backbones.efficientnet import EfficientNet, EfficientNetClassifier
from backbones.errors import BadInput, UserError
from backbones.mbconv import StochasticDepth
from backbones.memory_efficient import norm_act, spatial_mean
from backbones.names import is_custom, split_tag
from backbones.necks import create_neck
from backbones.provenance import Provenance
from backbones.scaling import scale_of
from backbones.weights import load_weights, read_state

logger = logging.getLogger(__name__)

NECK_STRIDES = (8, 16, 32)
DROPOUT = 0.2  # before the class layer of a pooled pyramid: EfficientNet-B0's
RUN = "model."  # what precedes our names in a run's checkpoint
CLASS_LAYER = "head.classifier."


class Classifier(nn.Module):
    """Logits of an image's classes.

    Args:
        backbone: what `--protocol frozen` freezes, and what other tasks take over from a run.
        head: logits from what the neck gives, or the backbone where there is none; its `classifier` is the last layer.
        provenance: of the backbone's weights.
        neck: fuses the backbone's maps at strides 8, 16 and 32.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, provenance: Provenance, neck: nn.Module | None = None):
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self.provenance = provenance

    def forward(self, images: Tensor | CachedFeatures) -> Tensor:
        """(B, 3, H, W) normalised floats -> logits (B, K)."""
        maps = self.maps(images)
        return self.head(maps if self.neck is None else self.neck(maps))

    def maps(self, images: Tensor | CachedFeatures) -> list[Tensor]:
        """What neck or head take of the backbone's maps; of a backbone that pools its last one itself, (B, C)."""
        if isinstance(images, CachedFeatures):
            return images.maps
        maps = self.backbone(images)
        if isinstance(maps, Tensor):
            return [maps]
        if self.neck is None:
            return maps[-1:]
        return [maps[i] for i in select(self.backbone.levels, NECK_STRIDES)]  # type: ignore[arg-type]


class ConvHead(nn.Module):
    """EfficientNet's own head: 1x1 convolution on the coarsest map, mean over space, dropout, linear layer.

    Takes over the layers of `network`, whose act follows the convolution.
    """

    def __init__(self, network: EfficientNetClassifier) -> None:
        super().__init__()
        self.conv_head, self.bn2, self.act = network.conv_head, network.bn2, network.act
        self.dropout, self.classifier = network.dropout, network.classifier

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, H, W)] -> logits (B, K)."""
        x = norm_act(self.bn2, self.act, self.conv_head(maps[-1]))
        return self.classifier(self.dropout(spatial_mean(x).flatten(1)))


class LinearHead(nn.Module):
    """The class layer of a network that does all else itself."""

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C)] -> logits (B, K)."""
        return self.classifier(maps[0])


class PyramidHead(nn.Module):
    """ReLU and mean over space of every map, side by side, then dropout and a linear layer."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, H, W) of each level] -> logits (B, K)."""
        pooled = torch.cat([x.relu().mean((2, 3)) for x in maps], dim=1)
        return self.classifier(self.dropout(pooled))


def create_classifier(
    backbone: str,
    num_classes: int,
    pretrained: bool | str | Path = False,
    neck: str | None = None,
    stochastic_depth: float | None = None,
) -> Classifier:
    """A classifier on any backbone; an untrained class layer starts from zero.

    EfficientNet's rule would draw its weights from +-1/sqrt(K): made for a thousand classes, it drowns the features
    where there are two. From zero, the first steps train that layer before the backbone feels a gradient.

    Args:
        backbone: a name of `list_backbones()`, or NAME.TAG.
        num_classes: K.
        pretrained: True for published weights; a path for a file of them, or for a checkpoint of a run of any task, of
            which the backbone is taken, and the head where it fits. The class layer is dropped, and logged, where
            class counts differ.
        neck: a name of `backbones.necks.NECKS`; None for the network's own head.
        stochastic_depth: rate of the last residual branch; None leaves what the network is published with.

    Raises UserError for unknown names and for networks without residual branches or without a head of one linear layer
    where those are asked for, BadInput where weights are absent or do not fit.
    """
    state = {} if isinstance(pretrained, bool) else read_state(pretrained)

    def build(source: bool | str | Path) -> Classifier:
        if neck is not None:
            return _with_neck(backbone, num_classes, source, neck)
        if is_custom(backbone) or is_amoebanet(split_tag(backbone)[0]):
            return _pooled(backbone, num_classes, source)
        if is_efficientnet(split_tag(backbone)[0]):
            return _efficientnet(backbone, num_classes, source)
        return _of_timm(backbone, num_classes, source, stochastic_depth)

    if any(key.startswith(RUN + CLASS_LAYER) for key in state):  # a classification run's
        model = build(False)
        given = {key.removeprefix(RUN): value for key, value in state.items()}
        if given.keys() == model.state_dict().keys():
            _take_over(model, given, Path(str(pretrained)))
        else:  # with a neck and now without, or the other way round
            model = build(pretrained)
    else:
        model = build(pretrained)
    if stochastic_depth is not None:
        _set_stochastic_depth(model, backbone, stochastic_depth)
    return model


def _with_neck(name: str, num_classes: int, pretrained: bool | str | Path, neck: str) -> Classifier:
    """EfficientDet-D0's neck on the backbone's levels, pooled."""
    backbone = create_backbone(name, pretrained)
    scale = scale_of(0)
    options: dict[str, Any] = {"channels": scale.width, "num_levels": scale.num_levels}
    if neck.startswith("bifpn"):
        options["repeats"] = scale.neck_repeats
    levels = [backbone.levels[i] for i in select(backbone.levels, NECK_STRIDES)]
    fused = create_neck(neck, levels, **options)
    head = PyramidHead(sum(level.channels for level in fused.levels), num_classes)
    _zero(head.classifier)
    return Classifier(backbone, head, backbone.provenance, fused)


def _efficientnet(name: str, num_classes: int, pretrained: bool | str | Path) -> Classifier:
    """This package's EfficientNet, cut before its last convolution."""
    architecture = split_tag(name)[0]
    network = EfficientNetClassifier(architecture, num_classes)
    _zero(network.classifier)
    provenance = load_weights(network, name, pretrained)
    with torch.device("meta"):
        backbone = EfficientNet(architecture)
    backbone.conv_stem, backbone.bn1, backbone.blocks = network.conv_stem, network.bn1, network.blocks
    backbone.provenance = provenance
    return Classifier(backbone, ConvHead(network), provenance)


def _pooled(name: str, num_classes: int, pretrained: bool | str | Path) -> Classifier:
    """A network whose coarsest map is pooled: AmoebaNet, whose own head is that, or one of the user's."""
    backbone = create_backbone(name, pretrained, strides=(32,))
    head = PyramidHead(backbone.levels[-1].channels, num_classes)
    _zero(head.classifier)
    return Classifier(backbone, head, backbone.provenance)


def _of_timm(name: str, num_classes: int, pretrained: bool | str | Path, stochastic_depth: float | None) -> Classifier:
    """A network of timm's, cut before its class layer: what lies before that counts as backbone."""
    architecture = split_tag(name)[0]
    with torch.device("meta"):
        build_backbone(architecture)  # refuses what cannot serve as a backbone, as the other tasks do
    config = timm.get_pretrained_cfg(architecture)
    options: dict[str, Any] = {"strict_img_size": False} if config is not None and config.fixed_input_size else {}
    if stochastic_depth:
        options["drop_path_rate"] = stochastic_depth
    try:
        network = timm.create_model(architecture, num_classes=num_classes, **options)
    except TypeError as error:
        raise UserError(
            f"'{name}' cannot be built with {', '.join(f'{key}={value}' for key, value in options.items())} ({error})"
        ) from error
    classifier = network.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            f"'{name}' does not end in one linear layer, so that it cannot be cut into backbone and head: use it with "
            "--neck bifpn, which brings a head of its own"
        )
    _zero(classifier)
    provenance = _fill(network, name, pretrained)
    place = next(key for key, module in network.named_modules() if module is classifier)
    network.set_submodule(place, nn.Identity())
    return Classifier(network, LinearHead(classifier), provenance)


def _fill(network: nn.Module, name: str, pretrained: bool | str | Path) -> Provenance:
    """`load_weights`, which knows published names; runs of other tasks spell some networks as timm's extractors do."""
    state = {} if isinstance(pretrained, bool) else read_state(pretrained)
    if not any(key.startswith(f"{RUN}backbone.network.") for key in state):
        return load_weights(network, name, pretrained)
    backbone = build_backbone(name)
    assert isinstance(backbone, TimmBackbone)
    provenance = load_weights(backbone, name, pretrained)
    published = backbone.published_names()
    network.load_state_dict({published[key]: value for key, value in backbone.state_dict().items()}, strict=False)
    logger.warning("%s holds a backbone alone: the head of %s starts from random weights", pretrained, name)
    return provenance


def _take_over(model: Classifier, state: dict[str, Tensor], file: Path) -> None:
    """Load the whole classifier of a run; only the class layer may have another shape. Raises BadInput."""
    own = model.state_dict()
    odd = [key for key, value in state.items() if value.shape != own[key].shape]
    if any(not key.startswith(CLASS_LAYER) for key in odd):
        raise BadInput(f"{file} is a run of another network: name it with --backbone")
    for key in odd:
        logger.warning("%s: '%s' dropped, since the number of classes differs", file, key)
    model.load_state_dict(own | {key: value for key, value in state.items() if key not in odd})
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    model.provenance = replace(model.provenance, source=f"file:{file}", recipe="run checkpoint", sha256=digest)


def _set_stochastic_depth(model: Classifier, name: str, rate: float) -> None:
    """Let the branches' rates grow linearly towards `rate`, as EfficientNet's do; timm's were built so."""
    branches = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if rate and not branches and not any(isinstance(module, DropPath) for module in model.modules()):
        raise UserError(
            f"--stochastic_depth {rate}: '{name}' has no residual branches that could be dropped"
            + (", or none that can be reached below a neck" if model.neck is not None else "")
        )
    for place, branch in enumerate(branches):
        branch.rate = rate * place / len(branches)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
