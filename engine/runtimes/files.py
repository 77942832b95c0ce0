"""Exported files: their names, and how they are opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from backbones.errors import BadInput, UserError
from engine.runtimes.description import Description

Format = Literal["onnx", "openvino", "torch", "safetensors"]
GRAPHS = {"onnx": "model.onnx", "openvino": "model.xml", "torch": "model.pt2"}
FILES = GRAPHS | {"safetensors": "model.safetensors"}
READERS = {"onnx": ("onnx", "onnxruntime"), "openvino": ("openvino",)}  # the packages that open a file
WRITERS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "onnxruntime", "openvino")}


class Network(Protocol):
    """An exported network, ready to run on the CPU.

    Attributes:
        description: what the file says of itself.
        name: the runtime with its version and precision, for people.
    """

    description: Description
    name: str

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs for images (B, C, H, W), of the type in the description."""


def images_at_once(network: Network | None, batch_size: int) -> int:
    """The batch size for a network: 1 for photographs and for files of one image. None: any batch size."""
    one = network is not None and (network.description.preprocess or network.description.dynamic == "none")
    return 1 if one else batch_size


def ran_on(network: Network | None, device: torch.device, execution: object) -> str:
    """For people: where and how a network runs. None: in PyTorch, on `device`, by `execution`."""
    return f"{device} ({execution})" if network is None else f"cpu ({network.name})"


def raise_unless_installed(format: str, packages: Mapping[str, tuple[str, ...]] = WRITERS) -> None:
    """Raise UserError if a package that the format needs is missing."""
    missing = [name for name in packages.get(format, ()) if find_spec(name) is None]
    if missing:
        raise UserError(f"{format} needs {' and '.join(missing)}: python -m pip install 'backbone-swap[export]'")


def exported_file(path: str | Path) -> Path | None:
    """The exported file at `path`, which is the file or its folder. None if there is none, or a run beside it."""
    path = Path(path)
    if path.suffix in (".onnx", ".xml", ".pt2"):
        return path
    if not path.is_dir() or (path / "checkpoints").exists():
        return None
    found = [path / name for name in GRAPHS.values() if (path / name).is_file()]
    if len(found) > 1:
        raise UserError(f"{path} holds {' and '.join(file.name for file in found)}: name one of them")
    return found[0] if found else None


def open_exported(file: Path, precision: str = "fp32") -> Network:
    """Open an exported file.

    Raises BadInput if it is missing, damaged, not an export of this package, or not safe to read; UserError if its
    runtime is not installed or does not have the precision.
    """
    if not file.is_file():
        raise BadInput(f"{file} does not exist")
    return _opener(file)(file, precision)


def _opener(file: Path) -> Callable[[Path, str], Any]:
    if file.suffix == ".onnx":
        raise_unless_installed("onnx", READERS)
        from engine.runtimes.onnx_network import OnnxNetwork

        return OnnxNetwork
    if file.suffix == ".xml":
        raise_unless_installed("openvino", READERS)
        from engine.runtimes.openvino_network import OpenVinoNetwork

        return OpenVinoNetwork
    raise BadInput(
        f"{file} is a program of torch.export. Such a file can contain Python code, so it is not opened here: open it "
        "with torch.export.load if you trust it, or export the run with `format=onnx`",
        settings=("format",),
    )
