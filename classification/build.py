"""Creates classifiers on any backbone, with or without a neck, and loads their weights.

Without a neck a classifier is the published network, split into backbone and head, so that published weights have their
published accuracy. With a neck, the feature maps of the neck are pooled.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from backbones import create_backbone
from backbones.adapter import TimmBackbone, build_backbone, no_stochastic_depth, timm_channels
from backbones.amoebanet import is_amoebanet
from backbones.architecture import is_efficientnet
from backbones.base import Backbone, Neck, select
from backbones.class_layers import fit_class_layer
from backbones.efficientnet import EfficientNet, EfficientNetClassifier
from backbones.errors import BadInput, UserError
from backbones.mbconv import StochasticDepth
from backbones.names import is_custom, split_tag
from backbones.necks import create_neck
from backbones.scaling import scale_of
from backbones.weight_facts import weight_facts
from backbones.weight_files import read_state
from classification.model import NECK_STRIDES, Classifier, ConvHead, LinearHead, PyramidHead

if TYPE_CHECKING:
    from backbones.provenance import Provenance

logger = logging.getLogger(__name__)

RUN = "model."  # prefix of the parameter names in a run's checkpoint
CLASS_LAYER = "head.classifier."


def create_classifier(
    backbone: str,
    num_classes: int,
    pretrained: bool | str | Path = False,
    neck: str | None = None,
    stochastic_depth: float | None = None,
    classes: Sequence[str] | None = None,
    channels: int = 3,
) -> Classifier:
    """Create a classifier on any backbone. A class layer without weights starts from zero.

    EfficientNet's initialisation draws the class layer's weights from +-1/sqrt(K). It is made for a thousand classes;
    for two classes these weights are far too large. From zero, the first steps train the class layer alone, because no
    gradient passes through it.

    Args:
        backbone: a name from `list_backbones()`, or NAME.TAG.
        num_classes: number of classes K.
        pretrained: True for published weights; a path for a weight file, or for a run of any task or its checkpoint.
            From a run, the backbone is loaded, and the head if it fits. If the classes differ, the class layer of the
            file is dropped and a warning is logged.
        neck: a name from `backbones.necks.NECKS`; None for the network's own head.
        stochastic_depth: drop rate of the last residual branch; None for the network's own rate, which is 0
            with a neck.
        classes: names of the classes. The class layer of a run is then matched by name, otherwise by the number of
            classes.
        channels: number of channels of the images, see `create_backbone`.

    Raises UserError for unknown names, for `stochastic_depth` on a network without residual branches, and for a network
    without neck whose head is not one linear layer; BadInput for weights that are missing or do not fit.
    """
    state = {} if isinstance(pretrained, bool) else read_state(pretrained)

    def build(source: bool | str | Path) -> Classifier:
        if neck is not None:
            return _with_neck(backbone, num_classes, source, neck, channels, stochastic_depth)
        if is_custom(backbone) or is_amoebanet(split_tag(backbone)[0]):
            return _pooled(backbone, num_classes, source, channels, stochastic_depth)
        if is_efficientnet(split_tag(backbone)[0]):
            return _efficientnet(backbone, num_classes, source, channels)
        return _timm(backbone, num_classes, source, stochastic_depth, channels)

    if any(key.startswith(RUN + CLASS_LAYER) for key in state):  # a classification run
        model = build(False)
        run_state = {key.removeprefix(RUN): value for key, value in state.items()}
        if run_state.keys() == model.state_dict().keys():
            _load_run(model, run_state, backbone, str(pretrained), classes)
        else:
            model = build(pretrained)  # raises for another backbone, so that only the neck can differ
            stored = ((weight_facts(str(pretrained)).run or {}).get("config") or {"neck": "?"})["neck"]
            logger.warning(
                "%s is a run %s: only its backbone is used. To use all of its weights, pass --neck %s",
                pretrained,
                f"with the neck {stored}" if stored else "without a neck",
                stored or "null",
            )
    else:
        model = build(pretrained)
    if stochastic_depth is not None and neck is None:
        _set_stochastic_depth(model, backbone, stochastic_depth)
    return model


def _with_neck(
    name: str,
    num_classes: int,
    pretrained: bool | str | Path,
    neck: str,
    channels: int,
    stochastic_depth: float | None,
) -> Classifier:
    """A neck of EfficientDet-D0's size on the backbone's levels, then pooling."""
    backbone = create_backbone(name, pretrained, channels=channels, stochastic_depth=stochastic_depth)
    backbone.keep_levels(NECK_STRIDES)
    scale = scale_of(0)
    options: dict[str, Any] = {"channels": scale.width, "num_levels": scale.num_levels}
    if neck.startswith("bifpn"):
        options["repeats"] = scale.neck_repeats
    levels = [backbone.levels[i] for i in select(backbone.levels, NECK_STRIDES)]
    return classifier_on(backbone, create_neck(neck, levels, **options), num_classes)


def classifier_on(backbone: Backbone, neck: Neck, num_classes: int) -> Classifier:
    """A classifier that pools the maps of a neck from stride 8 on. Other networks may share backbone and neck."""
    head = PyramidHead(sum(level.channels for level in neck.levels if level.stride >= NECK_STRIDES[0]), num_classes)
    _zero(head.classifier)
    return Classifier(backbone, head, None, neck, backbone.input_channels)


def _efficientnet(name: str, num_classes: int, pretrained: bool | str | Path, channels: int) -> Classifier:
    """This package's EfficientNet, split before its last convolution."""
    architecture = split_tag(name)[0]
    network = EfficientNetClassifier(architecture, num_classes, input_channels=channels)
    _zero(network.classifier)
    provenance = None
    if pretrained is not False or split_tag(name)[1] is not None:
        from backbones.weights import load_weights  # imports timm, which takes a second

        provenance = load_weights(network, name, pretrained)
    # Its parameters are replaced. On the meta device, drawing them would import torch's compiler, which takes a second.
    with torch.random.fork_rng(devices=[]):
        backbone = EfficientNet(architecture, input_channels=channels)
    backbone.conv_stem, backbone.bn1, backbone.blocks = network.conv_stem, network.bn1, network.blocks
    if provenance is not None:
        backbone.provenance = provenance
    return Classifier(backbone, ConvHead(network), input_channels=channels)


def _pooled(
    name: str, num_classes: int, pretrained: bool | str | Path, channels: int, stochastic_depth: float | None
) -> Classifier:
    """A network with pooling of its coarsest map as head: AmoebaNet, whose own head is that, or a user's network."""
    backbone = create_backbone(name, pretrained, channels=channels, stochastic_depth=stochastic_depth)
    head = PyramidHead(backbone.levels[-1].channels, num_classes)
    _zero(head.classifier)
    return Classifier(backbone, head, input_channels=channels)


def _timm(
    name: str, num_classes: int, pretrained: bool | str | Path, stochastic_depth: float | None, channels: int
) -> Classifier:
    """A network of timm. All layers before its class layer are the backbone."""
    import timm

    from backbones.plain import create_plain, is_plain

    architecture = split_tag(name)[0]
    with torch.device("meta"):  # raises for networks that cannot be backbones, as in the other tasks
        build_backbone(architecture, input_channels=channels)
    config = timm.get_pretrained_cfg(architecture)
    plain = is_plain(architecture)
    fixed_size = config is not None and config.fixed_input_size and not plain
    options: dict[str, Any] = {"strict_img_size": False} if fixed_size else {}
    options |= timm_channels(channels)
    if stochastic_depth:
        options["drop_path_rate"] = stochastic_depth
    try:
        create = create_plain if plain else timm.create_model
        network = create(architecture, num_classes=num_classes, **options)
    except TypeError as error:
        if stochastic_depth:
            raise no_stochastic_depth(name, stochastic_depth) from error
        raise UserError(f"'{name}' cannot be built for images of any size ({error})") from error
    classifier = network.get_classifier()  # type: ignore[operator]
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            f"the last layer of '{name}' is not a linear layer, so it cannot be split into backbone and head: use a "
            "neck, such as `neck='bifpn'`, which has its own head",
            settings=("neck",),
        )
    _zero(classifier)
    provenance = _load(network, name, pretrained, channels)
    key = next(key for key, module in network.named_modules() if module is classifier)
    network.set_submodule(key, nn.Identity())
    return Classifier(network, LinearHead(classifier), provenance, input_channels=channels)


def _load(network: nn.Module, name: str, pretrained: bool | str | Path, channels: int) -> Provenance:
    """`load_weights`, also for runs of other tasks.

    Such runs name some parameters as timm's feature extractors do, not as in the published network.
    """
    from backbones.plain import PlainBackbone
    from backbones.weights import load_weights

    state = {} if isinstance(pretrained, bool) else read_state(pretrained)
    if not any(key.startswith(f"{RUN}backbone.network.") for key in state):
        return load_weights(network, name, pretrained)
    backbone = build_backbone(name, input_channels=channels)
    assert isinstance(backbone, TimmBackbone | PlainBackbone)
    backbone.keep_levels(())  # the published network has no pyramid
    provenance = load_weights(backbone, name, pretrained)
    published = backbone.published_names()
    own = backbone.state_dict()
    network.load_state_dict({name: own[key] for key, name in published.items()}, strict=False)
    logger.warning("%s contains only a backbone: the head of %s starts from random weights", pretrained, name)
    return provenance


def _load_run(model: Classifier, state: dict[str, Tensor], name: str, path: str, classes: Sequence[str] | None) -> None:
    """Load the whole classifier of a run, except a class layer for other classes, and record its provenance.

    Raises BadInput if other parameters have another shape.
    """
    from backbones.weights import adapt_first_convolution, provenance_of_file

    own, facts = model.state_dict(), weight_facts(path)
    stored = (facts.run or {}).get("classes")
    advice = adapt_first_convolution(own, state, {key: key for key in own}, path)
    is_whole = fit_class_layer(state, own, (CLASS_LAYER + "weight", CLASS_LAYER + "bias"), stored, classes, path)
    if any(value.shape != own[key].shape for key, value in state.items()):
        known = "" if facts.network is None else f"={facts.network!r}"
        message = f"{path} is a run of another network: choose it with `backbone{known}`.{advice}"
        raise BadInput(message, settings=("backbone", "data.channels"))
    model.load_state_dict(state)
    model.neck_is_trained = model.neck is not None
    provenance = provenance_of_file(name, path, "run checkpoint")
    model.provenance = replace(provenance, continues=is_whole and provenance.run is not None)


def _set_stochastic_depth(model: Classifier, name: str, rate: float) -> None:
    """Set drop rates that rise linearly towards `rate`, as in EfficientNet. timm sets those of its own networks.

    Raises UserError for a positive rate on a network without residual branches.
    """
    branches = [module for module in model.modules() if isinstance(module, StochasticDepth)]
    if rate and not branches:
        from timm.layers import DropPath

        if not any(isinstance(module, DropPath) for module in model.modules()):
            raise no_stochastic_depth(name, rate)
    for index, branch in enumerate(branches):
        branch.rate = rate * index / len(branches)


def _zero(layer: nn.Linear) -> None:
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
