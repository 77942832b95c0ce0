"""Operations that keep less for backward than torch's: activations, batch norm with swish, and a sigmoid gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def swish(x: Tensor) -> Tensor:
    """Multiply x by its sigmoid, in place where no gradient will ask for x."""
    return F.silu(x, inplace=not x.requires_grad)


def relu6(x: Tensor) -> Tensor:
    """min(max(x, 0), 6) in place; the gradient is told from the output.

    torch's own, in place, keeps a copy of its input.
    """
    return _ReLU6.apply(x) if torch.is_grad_enabled() and x.requires_grad else F.relu6(x, inplace=True)


class ReLU6(nn.ReLU6):
    """`relu6` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return relu6(x)


# By the name that `backbones.scaling.Scale` gives them.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"silu": nn.SiLU, "relu6": ReLU6}


def norm_act(norm: nn.Module, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`act(norm(x))`; of a batch norm and swish in one."""
    is_swish = act is swish or isinstance(act, nn.SiLU)
    return norm_swish(norm, x) if is_swish and type(norm) is nn.BatchNorm2d else act(norm(x))


def norm_swish(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`F.silu(norm(x))`, for a norm in training or evaluation; x stays as it is.

    Apart, the two keep x and the norm's output for backward, and the convolution that follows keeps swish's. Computing
    the norm's output again costs a pass over x, and saves a third of what a block of convolutions keeps.
    """
    if not (norm.training and torch.is_grad_enabled()):
        return swish(norm(x))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormSwish.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps)


def spatial_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1).

    On a CPU, torch sums bfloat16 through a float32 copy of all of x; poolings, first along rows, need none. Their
    gradients would keep x, which those of a sum do not.
    """
    learning = torch.is_grad_enabled() and x.requires_grad
    if x.dtype is torch.bfloat16 and x.device.type == "cpu" and not learning:
        return F.avg_pool2d(F.avg_pool2d(x, (1, x.shape[3])), (x.shape[2], 1))
    return x.mean((2, 3), keepdim=True)


def gated(x: Tensor, logits: Tensor) -> Tensor:
    """`x * logits.sigmoid()` for maps x (B, C, H, W) and logits (B, C, 1, 1).

    Apart, the product keeps x for the gradient of the gate. Where p is the product, that of the logits is the sum of
    p (1 - gate) times p's gradient, and p is what the convolution that follows keeps anyway.
    """
    return _Gated.apply(x, logits) if torch.is_grad_enabled() else x * logits.sigmoid()


class _ReLU6(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        F.relu6(x, inplace=True)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.ops.aten.hardtanh_backward(gradient, *ctx.saved_tensors, 0, 6)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, logits: Tensor) -> Tensor:
        gate = logits.sigmoid()
        product = x * gate
        ctx.save_for_backward(product, gate)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        product, gate = ctx.saved_tensors
        of_maps, of_logits = ctx.needs_input_grad
        return (
            gradient * gate if of_maps else None,
            (gradient * product).sum((2, 3), keepdim=True) * (1 - gate) if of_logits else None,
        )


class _NormSwish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        y, mean, inverse_std = torch.native_batch_norm(x, weight, bias, running_mean, running_var, True, momentum, eps)
        ctx.save_for_backward(x, weight, bias, mean, inverse_std)
        ctx.eps = eps
        return F.silu(y, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_std = ctx.saved_tensors
        scale = weight * inverse_std
        shift, factor = (v.to(x.dtype).view(1, -1, 1, 1) for v in (bias - mean * scale, scale))
        y = torch.addcmul(shift, x, factor)
        inner = torch.ops.aten.silu_backward(gradient, y)
        needed = list(ctx.needs_input_grad[:3])
        found = torch.ops.aten.native_batch_norm_backward(
            inner, x, weight, None, None, mean, inverse_std, True, ctx.eps, needed
        )
        return (*(g if need else None for g, need in zip(found, needed, strict=True)), None, None, None, None)
