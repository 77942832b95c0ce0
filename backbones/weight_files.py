"""Reads weight files as training programs write them. Code in a file never runs.

Read are safetensors, and torch files of any training program: plain state dicts, checkpoints of timm, torchvision and
Lightning, averaged models, and folders of the Hugging Face hub. A checkpoint may contain settings and numbers as Python
objects, such as the `argparse.Namespace` of timm. These are replaced by inert objects, since only tensors are needed.
"""

from __future__ import annotations

import argparse
import json
import logging
import pickle
import pickletools
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from huggingface_hub.constants import PYTORCH_WEIGHTS_NAME, SAFETENSORS_SINGLE_FILE
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from backbones import compat
from backbones.errors import BadInput
from backbones.lora import merged_state

logger = logging.getLogger(__name__)

RUN_KEY = "backbone_swap_run"  # of the metadata of a safetensors file that holds a run: its description as JSON
SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".tar", ".th", ".pyth")  # .tar: `model_best.pth.tar`
# Entries of a checkpoint that hold its state dict, averages of the weights first.
WRAPPERS = (
    "ema_state_dict", "state_dict_ema", "model_ema", "params_ema", "teacher", "state_dict", "model", "model_state_dict",
    "model_state", "params", "net", "network", "weights",
)  # fmt: skip
# Files of a folder: of a run of this package, then of the Hugging Face hub.
FOLDER_FILES = ("checkpoints/last.ckpt", "last.ckpt", SAFETENSORS_SINGLE_FILE, PYTORCH_WEIGHTS_NAME)
# Parts that wrappers of modules insert into keys: torch.compile, activation checkpointing, FSDP.
INSERTED = re.compile(r"\b(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")

# Objects of the standard library and numpy that hold values.
PLAIN = {
    *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "frozenset", "int", "list", "object", "str", "tuple")),
    *(f"pathlib.{kind}Path" for kind in ("", "Pure", "Posix", "PurePosix", "Windows", "PureWindows")),
    *(f"pathlib._local.{kind}Path" for kind in ("", "Pure", "Posix", "PurePosix", "Windows", "PureWindows")),
    *(f"datetime.{kind}" for kind in ("date", "datetime", "time", "timedelta", "timezone")),
    *(f"numpy{core}.multiarray.{kind}" for core in (".core", "._core") for kind in ("scalar", "_reconstruct")),
    *("numpy.dtype", "numpy.ndarray", "numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer"),
    *("argparse.Namespace", "types.SimpleNamespace", "collections.defaultdict", "collections.deque"),
    *("copyreg._reconstructor", "functools.partial", "decimal.Decimal", "fractions.Fraction", "uuid.UUID"),
}
TORCHS = {"_codecs.encode", "collections.OrderedDict", "collections.Counter", "builtins.set", "builtins.bytearray"}


def weight_file(path: str | Path) -> Path:
    """`path`, or the weight file in the folder `path`: of a run, or as the Hugging Face hub stores a network.

    Raises BadInput for a folder without such a file.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    snapshots = sorted(path.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime)  # in the hub's cache
    for folder in (path, *reversed(snapshots)):
        for name in FOLDER_FILES:
            if (folder / name).is_file():
                return folder / name
    if shards := sorted(path.glob("*.index.json")):
        raise BadInput(f"{path} has weights in several files, which {shards[0].name} lists: join them into one file.")
    raise BadInput(f"no weight file at {path}: this folder has none of {', '.join(FOLDER_FILES)}.")


def read_file(path: str | Path) -> Any:
    """The content of a weight file or checkpoint: tensors on the CPU, plain values, and containers of both.

    A safetensors file that holds a run, see `RUN_KEY`, has the content of the run's checkpoint: `run` and `state_dict`.
    Uses safetensors or torch's restricted unpickler, so that code in the file never runs. Objects that hold settings
    are replaced by inert ones. `path` may be a folder, see `weight_file`.

    Raises BadInput if the file is absent, truncated or in another format, and if it contains calls of functions.
    """
    path = weight_file(path)
    if not path.is_file():
        raise BadInput(f"no weight file at {path}: check the path.")
    if path.suffix not in SUFFIXES:
        raise BadInput(f"{path} is not a weight file: its name must end with one of {', '.join(SUFFIXES)}.")
    try:
        return _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} is damaged, or it contains Python objects other than tensors and settings. Such objects could run "
            f"code, so they are not read. Save only its state dict, preferably as .safetensors. ({_first_line(error)})"
        ) from error
    except BadInput:
        raise
    except Exception as error:  # for damaged content, the unpickler raises errors of any kind
        raise BadInput(f"{path} is truncated or not a weight file. Copy it again. ({_first_line(error)})") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict of a weight file or checkpoint: key -> tensor on the CPU.

    Prefers moving averages of the weights, and logs it when it uses them. Removes the parts of keys that wrappers of
    modules insert, and merges the low-rank updates of a run with the protocol "lora". Reads the file as `read_file`
    does, and raises BadInput for the same reasons and if there is no state dict.
    """
    path = weight_file(path)
    content = read_file(path)
    while isinstance(content, Mapping):
        wrapper = next((name for name in WRAPPERS if isinstance(content.get(name), Mapping)), None)
        if wrapper is None:
            break
        logger.info("%s: using its '%s'", path, wrapper)
        content = content[wrapper]
    items = content.items() if isinstance(content, Mapping) else ()
    state = {INSERTED.sub("", key): value for key, value in items if isinstance(key, str) and torch.is_tensor(value)}
    state.pop("n_averaged", None)  # torch.optim.swa_utils.AveragedModel counts its updates
    if not state:
        whole = any(isinstance(value, _Inert) for value in [content, *(v for _, v in items)])
        raise BadInput(
            f"{path} contains no state dict, neither at its top level nor under one of {', '.join(WRAPPERS)}."
            + (" It contains a network as a Python object: save its `state_dict()`." if whole else "")
        )
    return merged_state({_unwrapped(key): value for key, value in state.items()})


def _unwrapped(key: str) -> str:
    """A key without the prefixes of DataParallel, DistributedDataParallel and AveragedModel, which may be nested."""
    while key.startswith("module."):
        key = key.removeprefix("module.")
    return key


class _Inert:
    """Replaces an object of a file that is not needed. It accepts any arguments and any state, and keeps nothing."""

    def __new__(cls, *arguments: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict(_Inert):
    """Replaces a subclass of dict. torch's unpickler fills only a few types, among them OrderedDict."""

    def __new__(cls, *arguments: Any) -> Any:
        return OrderedDict()


class _InertList(_Inert):
    """Replaces a subclass of list."""

    def __new__(cls, *arguments: Any) -> Any:
        return []


def _read_safetensors(path: Path) -> Any:
    """Content of a safetensors file. Raises ValueError for a damaged description of a run, and safetensors' errors."""
    state = load_file(path, device="cpu")
    with safe_open(path, "pt") as content:
        text = (content.metadata() or {}).get(RUN_KEY)
    if text is None:
        return state
    run = json.loads(text)
    if not isinstance(run, dict):
        raise ValueError("its description of a run is not an object")
    return {"run": run, "state_dict": state}


def _read_torch(path: Path) -> Any:
    """Content of a torch file.

    Raises BadInput for a program, UnpicklingError for calls of functions, and other errors for damaged files.
    """
    if _is_torchscript(path):
        raise BadInput(f"{path} is a TorchScript program: save the state dict of the network instead.")

    def load() -> Any:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))

    try:
        return load()
    except pickle.UnpicklingError as error:
        names = {alias: name for alias, name in _names_in(path, error).items() if not _is_torchs(name)}
        if refused := sorted({name for name in names.values() if not _holds_values(name)}):
            raise pickle.UnpicklingError(f"it contains {', '.join(refused[:3])}") from error
    replaced: list[Any] = [(_replacement(name), known) for alias, name in names.items() for known in (alias, name)]
    with torch.serialization.safe_globals(replaced):
        return load()


def _holds_values(name: str) -> bool:
    """Whether the object MODULE.NAME of a file may be replaced by an inert one.

    It may if it is in `PLAIN`, or looks like a class outside of the standard library. A function, or a class of the
    standard library such as `subprocess.Popen`, is what harmful files contain: they are refused, although nothing in
    them would run.
    """
    module, _, kind = name.rpartition(".")
    return name in PLAIN or (kind[:1].isupper() and module.partition(".")[0] not in sys.stdlib_module_names)


def _is_torchs(name: str) -> bool:
    """Whether torch's unpickler decides about MODULE.NAME: functions of torch, and types in state dicts."""
    module, _, kind = name.rpartition(".")
    return name in TORCHS or (module.partition(".")[0] == "torch" and not kind[:1].isupper())


def _replacement(name: str) -> Callable[..., Any]:
    kind = name.rpartition(".")[2]
    if name == "argparse.Namespace":  # timm's settings name the network and its normalisation, see `weight_facts`
        return argparse.Namespace
    return _InertDict if kind.lower().endswith("dict") else _InertList if kind == "deque" else _Inert


def _names_in(path: Path, error: pickle.UnpicklingError) -> dict[str, str]:
    """MODULE.NAME of all objects that a torch file names: as written -> in Python 3. Raises `error` for bad pickles."""
    found: dict[str, str] = {}
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith("/data.pkl"):
                        found |= _names_in_pickle(archive.read(name))
        else:
            with path.open("rb") as file:  # of torch before 1.6: magic number, version, system, content, storages
                for _ in range(5):
                    found |= _names_in_pickle(file)
    except ValueError:
        raise error from None
    return found


def _names_in_pickle(content: bytes | IO[bytes]) -> dict[str, str]:
    named = [str(argument).split(" ", 1) for code, argument, _ in pickletools.genops(content) if code.name == "GLOBAL"]
    return {f"{module}.{name}": compat.python_3_name(module, name) for module, name in named}


def _is_torchscript(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _first_line(error: BaseException) -> str:
    """The first line of a message. torch puts the cause of a refusal after a long text about its settings."""
    message = str(error).rpartition("WeightsUnpickler error:")[2].strip()
    return (message.splitlines() or [type(error).__name__])[0][:120]
