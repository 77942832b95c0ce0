"""Networks made ready for use alone: batch norm folded into convolutions, one memory format, one precision.

What a batch norm does in evaluation is a scale and a shift by channel, which the convolution before it can do on its
own. Which convolution that is, is seen by running the network once: a norm is folded where its input is what a
convolution gave, and where neither that convolution nor that output has another use.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PROBE = 128  # side of the square image that is run through, px


def prepare_for_inference(model: nn.Module, precision: str = "fp32") -> nn.Module:
    """A copy of `model` that computes the same in less time, and can no longer be trained.

    Batch norms are folded and weights are channels-last; a module with a method `for_inference` is replaced by what
    that returns. In fp32 the outputs are the same to within rounding. In "bf16" and "fp16" the weights are stored so,
    and inputs are converted on the way in, outputs to float32 on the way out.

    Args:
        model: called with (B, 3, H, W) floats; stays as it is.
        precision: "fp32", "bf16" or "fp16".
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    parameter = next(model.parameters())
    with torch.no_grad():
        fold_batch_norms(model, torch.zeros(1, 3, PROBE, PROBE, device=parameter.device))
    _replace(model)
    model = model.to(DTYPES[precision]).to(memory_format=torch.channels_last)
    if precision != "fp32":
        model.register_forward_pre_hook(_convert_inputs, with_kwargs=True)
        model.register_forward_hook(_convert_outputs)
    return model


def fold_batch_norms(model: nn.Module, images: Tensor) -> int:
    """Fold what can be folded, in place; returns how many norms that were. `images` is run through the model."""
    calls: Counter[nn.Module] = Counter()
    made_by: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensor is kept: its id must not be used anew
    pairs: list[tuple[_BatchNorm, nn.Conv2d, int]] = []

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
        if isinstance(module, _BatchNorm):
            handles.append(module.register_forward_pre_hook(before_norm))
        if isinstance(module, (nn.Conv2d, _BatchNorm)):
            handles.append(module.register_forward_pre_hook(count))
    try:
        with Uses() as uses:
            model(images)
    finally:
        for handle in handles:
            handle.remove()

    replaced: dict[nn.Module, nn.Module] = {}
    for norm, conv, output in pairs:
        if calls[norm] == calls[conv] == 1 and uses.of[output] == 1 and norm.running_mean is not None:
            fused = fuse_conv_bn_eval(conv, norm)
            conv.weight, conv.bias = fused.weight, fused.bias
            replaced[norm] = _rest(norm)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if child in replaced:
                setattr(parent, name, replaced[child])
    return len(replaced)


class Uses(TorchFunctionMode):
    """Counts for every tensor, by id, the operations that make a tensor of it."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[int] = Counter()
        self._kept: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_flatten(result)[0]):
            used = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
            self.of.update(id(value) for value in used)
            self._kept.append((used, result))
        return result


def _rest(norm: nn.Module) -> nn.Module:
    """What a batch norm does besides: timm's carry an activation."""
    rest = [child for child in norm.children() if not isinstance(child, nn.Identity)]
    return nn.Sequential(*rest) if rest else nn.Identity()


def _replace(model: nn.Module) -> None:
    for name, child in model.named_children():
        if hasattr(child, "for_inference"):
            child = child.for_inference()  # type: ignore[operator]
            setattr(model, name, child)
        _replace(child)


def _convert_inputs(module: nn.Module, inputs: Any, options: Any) -> Any:
    dtype = next(module.parameters()).dtype
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, (inputs, options))


def _convert_outputs(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    return tree_map(lambda x: x.float() if isinstance(x, Tensor) else x, outputs)
