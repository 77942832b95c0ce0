"""Activations, batch norm with swish, and a gate that store fewer tensors for the backward pass than PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from backbones import compat


def swish(x: Tensor) -> Tensor:
    """Swish, x * sigmoid(x), for x of any shape; in place if x needs no gradient."""
    return F.silu(x, inplace=not x.requires_grad)


def relu6(x: Tensor) -> Tensor:
    """ReLU6, min(max(x, 0), 6), in place.

    The gradient is computed from the output. PyTorch's version stores a copy of the input.
    """
    return _ReLU6.apply(x) if torch.is_grad_enabled() and x.requires_grad else F.relu6(x, inplace=True)


class ReLU6(nn.ReLU6):
    """`relu6` as a module."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return relu6(x)


# By the names that `backbones.scaling.Scale` uses.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"silu": nn.SiLU, "relu6": ReLU6}


def norm_act(norm: nn.Module, act: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`act(norm(x))`, by `norm_swish` if the two are a plain batch norm and swish."""
    is_swish = act is swish or isinstance(act, nn.SiLU)
    return norm_swish(norm, x) if is_swish and type(norm) is nn.BatchNorm2d else act(norm(x))


def norm_swish(norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    """`F.silu(norm(x))` for a batch norm in training or evaluation mode; x (B, C, H, W) is not changed.

    Computed separately, the two operations store x and the norm's output for the backward pass, and the convolution
    after them stores swish's output. This function computes the norm's output again in the backward pass. That costs
    one pass over x and saves a third of the memory of a block of convolutions.
    """
    if not (norm.training and torch.is_grad_enabled()):
        return swish(norm(x))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return _NormSwish.apply(x, norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.momentum, norm.eps)


def spatial_mean(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, C, 1, 1).

    On a CPU, `x.mean` copies all of a bfloat16 x to float32. Average pooling, along rows and then columns, does not. It
    stores x for the backward pass, however, so it is used only if x needs no gradient.
    """
    needs_gradient = torch.is_grad_enabled() and x.requires_grad
    if x.dtype is torch.bfloat16 and x.device.type == "cpu" and not needs_gradient:
        return F.avg_pool2d(F.avg_pool2d(x, (1, x.shape[3])), (x.shape[2], 1))
    return x.mean((2, 3), keepdim=True)


def gated(x: Tensor, logits: Tensor) -> Tensor:
    """`x * logits.sigmoid()` for maps x (B, C, H, W) and logits (B, C, 1, 1).

    Computed separately, the product stores x for the gradient of the gate. With p the product, the gradient of the
    logits is the sum over pixels of p (1 - gate) times the gradient of p. The convolution after this function stores p
    in any case.
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
        return compat.relu6_backward(gradient, *ctx.saved_tensors)


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
        needed_x, needed_logits = ctx.needs_input_grad
        return (
            gradient * gate if needed_x else None,
            (gradient * product).sum((2, 3), keepdim=True) * (1 - gate) if needed_logits else None,
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
        y, mean, inverse_std = compat.batch_norm(x, weight, bias, running_mean, running_var, momentum, eps)
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
        norm_gradient = compat.silu_backward(gradient, y)
        needed = ctx.needs_input_grad[:3]
        gradients = compat.batch_norm_backward(norm_gradient, x, weight, mean, inverse_std, ctx.eps, needed)
        return (*gradients, None, None, None, None)
