"""Faster copies of networks for inference: folded batch norms, channels-last memory format, and a chosen precision.

In evaluation mode, a batch norm multiplies each channel by a factor and adds a constant. The convolution before it can
do both. To find this convolution, the network is run once: a batch norm is folded if its input is the output of a
convolution, and if that convolution and that output have no other use.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

from backbones.base import blank_images
from backbones.compat import activation_of, map_tensors, tensors_in
from backbones.lora import merge_low_rank

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROBE = 128  # side of the square image that the network is run with, px
BATCH_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm


def prepare_for_inference(model: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy of `model` that computes the same outputs faster and cannot be trained.

    Batch norms and low-rank updates are folded and weights are stored in channels-last format. Each module with a
    method `for_inference` is replaced by the result of that method. With "fp32", outputs are the same up to rounding.
    With "bf16" and "fp16", weights have that precision, inputs are converted to it, and outputs are converted back to
    float32.

    Args:
        model: a network that takes images (B, C, H, W) as floats; C as in `backbones.base.blank_images`. It is not
            changed.
        precision: "fp32", "bf16" or "fp16".
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    merge_low_rank(model)
    parameter = next(model.parameters())
    with torch.no_grad():
        fold_batch_norms(model, blank_images(model, PROBE, PROBE, device=parameter.device))
    _replace(model)
    model = model.to(DTYPES[precision]).to(memory_format=torch.channels_last)
    if precision != "fp32":
        model.register_forward_pre_hook(_convert_inputs, with_kwargs=True)
        model.register_forward_hook(_convert_outputs)
    return model


def fold_batch_norms(model: nn.Module, images: Tensor) -> int:
    """Fold batch norms into the convolutions before them, in place. Returns how many were folded.

    Runs the model on `images` (B, C, H, W) to find the convolutions.
    """
    calls: Counter[nn.Module] = Counter()
    # Output id -> convolution and output. A reference to the output keeps its id from being used again.
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.BatchNorm2d, nn.Conv2d, int]] = []

    def after_conv(module: nn.Module, inputs: Any, output: Tensor) -> None:
        made_by[id(output)] = (module, output)  # type: ignore[assignment]

    def before_norm(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found = made_by.get(id(inputs[0]))
        if found is not None:
            pairs.append((module, found[0], id(inputs[0])))  # type: ignore[arg-type]

    def count(module: nn.Module, inputs: Any) -> None:
        calls[module] += 1

    handles = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(after_conv))
        if isinstance(module, BATCH_NORMS):
            handles.append(module.register_forward_pre_hook(before_norm))
        if isinstance(module, (nn.Conv2d, *BATCH_NORMS)):
            handles.append(module.register_forward_pre_hook(count))
    try:
        with TensorUses() as uses:
            model(images)
    finally:
        for handle in handles:
            handle.remove()

    replaced: dict[nn.Module, nn.Module] = {}
    for norm, conv, output in pairs:
        if calls[norm] == calls[conv] == 1 and uses.count[output] == 1 and norm.running_mean is not None:
            fused = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = fused.weight, fused.bias
            replaced[norm] = activation_of(norm)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child in replaced:
                setattr(parent, name, replaced[child])
    return len(replaced)


class TensorUses(TorchFunctionMode):
    """Counts for each tensor, by its id, the operations that compute another tensor from it."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[int] = Counter()
        self._references: list[Any] = []  # without them, ids would be used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if tensors_in(result):
            used = tensors_in((args, kwargs))
            self.count.update(id(tensor) for tensor in used)
            self._references.append((used, result))
        return result


def _replace(model: nn.Module) -> None:
    """Replace each module that has a method `for_inference` by the method's result, in place."""
    for name, child in model.named_children():
        if hasattr(child, "for_inference"):
            child = child.for_inference()  # type: ignore[operator]
            setattr(model, name, child)
        _replace(child)


def _convert_inputs(module: nn.Module, inputs: Any, options: Any) -> Any:
    dtype = next(module.parameters()).dtype
    return map_tensors(lambda x: x.to(dtype) if x.is_floating_point() else x, (inputs, options))


def _convert_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return map_tensors(lambda x: x.float(), outputs)
