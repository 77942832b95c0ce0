"""Plain vision transformers of timm as `Backbone`s: one map from the transformer, a pyramid from this package."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.base import Backbone, Level
from backbones.compat import create_dynamic
from backbones.errors import UserError
from backbones.extractors import fixed_size, padded
from backbones.positions import accept_any_size
from backbones.pyramid import STRIDES, WIDTH, SimpleFeaturePyramid

# Modules of timm whose networks are transformers with one map. Found by building every network of timm 1.0.31, see
# results/transformers.csv. Those of the last three are refused with the reason.
PLAIN_MODULES = (
    "vision_transformer", "deit", "eva", "beit", "cait", "xcit", "vision_transformer_hybrid",
    "vision_transformer_relpos", "vision_transformer_sam", "vitamin", "naflexvit", "qwen3_vit", "deepseek_vit",
    "convit", "gemma4_vit", "tnt",
)  # fmt: skip


def is_plain(name: str) -> bool:
    """Whether `name` is a transformer of timm with one map. Builds no network."""
    return timm.models.is_model_in_modules(name, PLAIN_MODULES)


def create_plain(name: str, **options: Any) -> nn.Module:
    """The whole plain transformer `name` of timm, for images of any size, with the parameters of timm."""
    network = create_dynamic(name, **options)
    if network is None:
        network = timm.create_model(name, **options)
        accept_any_size(network)
    return network


class PlainBackbone(Backbone):
    """The plain vision transformer `name` of timm, and a simple feature pyramid on its last map.

    The map is that of the last block, before the final norm, without class token, registers and other tokens.
    Images are padded with zeros at the bottom and right to a multiple of the map's stride.

    A patch of 14 px has no map at stride 16. The padded images are then scaled by 14/16, so that one patch covers 16 x
    16 px of the image. The transformer with its published weights stays exactly as it is, and it computes as many
    tokens as one with a patch of 16 px. docs/guides/transformers.md compares this with the alternatives.

    Attributes:
        network: the transformer, under timm's names, without the layers after its last map.
        pyramid: the layers that published weights do not contain; they start from random weights.

    Args:
        name: a network for which `is_plain` is true.
        strides: strides of the levels, some of 4, 8, 16, 32.
        input_channels: number of channels of the images.
        options: arguments of the network's class in timm, such as `depth`, for small variants in tests.

    Raises UserError for other strides, and for networks that cannot process images of any size.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = STRIDES,
        input_channels: int = 3,
        options: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.name, self.input_channels = name, input_channels
        strides = sorted(strides)
        if not set(strides) <= set(STRIDES):
            raise UserError(
                f"'{name}' has no feature map at stride {[s for s in strides if s not in STRIDES]}: the pyramid of a "
                f"plain vision transformer has strides {', '.join(map(str, STRIDES))}"
            )
        options = {"num_classes": 0, "in_chans": input_channels} | (options or {})
        with torch.device("meta"):
            complete = create_plain(name, **options)
        self.patch, self.stride, channels = _patch_and_stride(complete, name)
        prune(complete)
        _check_any_size(complete, name, self.patch, input_channels)
        self.network = create_plain(name, **options)
        prune(self.network)
        self.pyramid = SimpleFeaturePyramid(channels, self.stride, strides)
        self.levels = tuple(Level(WIDTH, stride) for stride in strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, 256, ceil(H / stride), ceil(W / stride)) for each level]."""
        return self.levels_of(self.trunk_maps(images), (images.shape[-2], images.shape[-1]))

    def trunk_maps(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, width, ceil(H / s), ceil(W / s))], the map of stride s that the pyramid starts from."""
        return [last_map(self.network, self.scaled(images))]

    def levels_of(self, maps: list[Tensor], size: tuple[int, int]) -> list[Tensor]:
        """The levels for the result of `trunk_maps` on images of (height, width) `size`."""
        return self.pyramid(maps[0], size)

    def scaled(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> the input of the transformer, padded and scaled: sides are multiples of the patch."""
        whole = padded(images, self.stride)
        if self.patch == self.stride:
            return whole
        size = [side // self.stride * self.patch for side in whole.shape[-2:]]
        # Some devices have no filtered interpolation in 16 bits.
        return F.interpolate(whole.float(), size, mode="bilinear", antialias=True).to(images.dtype)

    @property
    def trunk(self) -> nn.Module:
        """The transformer: the part that pretrained weights fill."""
        return self.network

    def keep_levels(self, strides: Sequence[int]) -> None:
        """Remove the layers of the pyramid that only levels at other strides need."""
        self.levels = tuple(level for level in self.levels if level.stride in strides)
        for stride in set(self.pyramid.branches) - {str(level.stride) for level in self.levels}:
            del self.pyramid.branches[stride]

    def published_names(self) -> dict[str, str]:
        """Keys of this module's state dict -> keys of the whole timm network. The pyramid has none."""
        return {f"network.{key}": key for key in self.network.state_dict()}

    def adaptation(self) -> str:
        """How the pyramid was added, for the record."""
        scaling = "" if self.patch == self.stride else f"; images scaled by {self.patch}/{self.stride}"
        return f"simple feature pyramid from stride {self.stride}{scaling}"


def last_map(network: nn.Module, images: Tensor) -> Tensor:
    """(B, C, h, w), the patch tokens of the last block before the final norm, for images of a suitable size."""
    return network.forward_intermediates(  # type: ignore[operator]
        images, indices=1, norm=False, output_fmt="NCHW", intermediates_only=True
    )[0]


def prune(network: nn.Module) -> None:
    """Remove the layers after the last block, in place: no map depends on them."""
    network.prune_intermediate_layers(1, prune_norm=True, prune_head=True)  # type: ignore[operator]


def _patch_and_stride(network: nn.Module, name: str) -> tuple[int, int, int]:
    """Side of a patch in px, stride of the map that the pyramid starts from, and its number of channels.

    The stride is the power of two that is nearest to the patch. Raises UserError if the network has several maps.
    """
    info: Any = network.feature_info
    found = {(item["reduction"], item["num_chs"]) for item in info}
    if len(found) != 1:
        raise UserError(f"'{name}' is not a plain vision transformer: it has maps of {len(found)} kinds")
    patch, channels = found.pop()
    stride = min(STRIDES, key=lambda stride: abs(stride - patch))
    return patch, stride, channels


@torch.no_grad()
def _check_any_size(network: nn.Module, name: str, patch: int, channels: int) -> None:
    """Raise UserError if the network, on the meta device, fails on an image that is not square."""
    rows, columns = 5, 7
    try:
        x = last_map(network.eval(), torch.empty(1, channels, rows * patch, columns * patch, device="meta"))
        if x.shape[-2:] == (rows, columns):
            return
        reason = f"its map has {x.shape[-2]} x {x.shape[-1]} cells instead of {rows} x {columns}"
    except (RuntimeError, AssertionError, ValueError) as error:
        if "item() cannot be called on meta tensors" in str(error):
            raise UserError(
                f"'{name}' cannot serve as a backbone: it reads values of tensors to compute the size of its map, so "
                "that its cost cannot be counted, and it cannot be exported."
            ) from error
        reason = f"{type(error).__name__}: {str(error)[:100]}"
    raise fixed_size(name, rows * patch, columns * patch, reason)
