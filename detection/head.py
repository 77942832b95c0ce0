"""EfficientDet's heads: one for classes, one for boxes. Levels share the convolutions but not the batch norms."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from backbones.bifpn import SeparableConv, batch_norm, init_near_identity
from backbones.memory_efficient import norm_act

# Initial probability of each class at every anchor (RetinaNet, arXiv:1708.02002, section 4.1).
PRIOR = 0.01


class Head(nn.Module):
    """`repeats` separable convolutions, each with a batch norm per level, and a last one that predicts.

    Args:
        channels: channels of the input maps.
        outputs: number of values predicted for each anchor: the number of classes, or 4.
        per_cell: number of anchors of a cell.
        levels: number of input maps.
        repeats: number of convolutions before the last.
        activation: module class of the nonlinearity.
        bias: whether the convolutions before batch norm have biases, as in TensorFlow's weights.
        prior: initial probability of each output after a sigmoid; None for zero biases.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        per_cell: int,
        levels: int = 5,
        repeats: int = 3,
        activation: Callable[[], nn.Module] = nn.SiLU,
        bias: bool = False,
        prior: float | None = None,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.convs = nn.ModuleList(SeparableConv(channels, channels, bias) for _ in range(repeats))
        # Indexed by level, then by convolution.
        self.norms = nn.ModuleList(nn.ModuleList(batch_norm(channels) for _ in range(repeats)) for _ in range(levels))
        self.activation = activation()
        self.predict = SeparableConv(channels, outputs * per_cell, bias=True)
        self.apply(init_weights)
        # With small last weights, every anchor initially predicts the prior and its own box (RetinaNet, section 4.1).
        nn.init.normal_(self.predict.pointwise.weight, std=0.01)
        if prior is not None and self.predict.pointwise.bias is not None:
            nn.init.constant_(self.predict.pointwise.bias, -math.log((1 - prior) / prior))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, channels, H, W) of each level] -> (B, A, outputs), anchors in the order of `Anchors`."""
        features = []
        for x, norms in zip(maps, self.norms, strict=True):
            for conv, norm in zip(self.convs, norms, strict=True):  # type: ignore[call-overload]
                x = norm_act(norm, self.activation, conv(x))
            features.append(x)
        return _by_anchor([self.predict(x) for x in features], self.outputs)

    def for_inference(self) -> FoldedHead:
        """The same head with the batch norms of each level folded into its own copies of the pointwise convolutions."""
        return FoldedHead(self)


class FoldedHead(nn.Module):
    """A head for inference. All levels share the depthwise filters; each level has its own folded pointwise filters."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.outputs, self.predict = head.outputs, head.predict
        self.activation = nn.SiLU(inplace=True) if isinstance(head.activation, nn.SiLU) else head.activation
        self.depthwise = nn.ModuleList(conv.depthwise for conv in head.convs)  # type: ignore[misc]
        self.pointwise = nn.ModuleList(
            nn.ModuleList(
                fuse_conv_bn_eval(conv.pointwise, norm)
                for conv, norm in zip(head.convs, norms, strict=True)  # type: ignore[call-overload]
            )
            for norms in head.norms
        )

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """The same as `Head.forward`."""
        features = []
        for x, pointwise in zip(maps, self.pointwise, strict=True):
            for depthwise, conv in zip(self.depthwise, pointwise, strict=True):  # type: ignore[call-overload]
                x = self.activation(conv(depthwise(x)))
            features.append(x)
        return _by_anchor([self.predict(x) for x in features], self.outputs)


def _by_anchor(maps: Sequence[Tensor], outputs: int) -> Tensor:
    """[(B, per_cell * outputs, H, W) of each level] -> (B, A, outputs)."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, outputs) for x in maps], dim=1)


def init_weights(module: nn.Module) -> None:
    """Normal with variance 1 / fan-in (`variance_scaling` of google/automl's heads) and zero biases.

    Depthwise filters are initialised near the identity, see `backbones.bifpn.init_near_identity`.
    """
    if isinstance(module, nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.normal_(module.weight, std=fan_in**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, SeparableConv):
        init_near_identity(module.depthwise)
