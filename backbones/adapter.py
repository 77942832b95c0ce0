"""Networks of timm as `Backbone`s, and the function that builds any backbone by name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from backbones.amoebanet import LISTED, AmoebaNet, is_amoebanet
from backbones.architecture import is_efficientnet
from backbones.base import Backbone
from backbones.compat import create_features, feature_indices, returns_channels_last, whole_network_keys
from backbones.custom import CustomBackbone
from backbones.efficientnet import EfficientNet
from backbones.errors import UserError, unknown_name
from backbones.extractors import extractor_levels, fitted, padded, size_multiple
from backbones.names import is_custom, split_tag

if TYPE_CHECKING:
    from backbones.plain import PlainBackbone

Network = TypeVar("Network", bound=nn.Module)

# Most networks in these modules of timm have no map at one of the strides 4, 8, 16, 32 or accept one image size only.
# So do two networks of other modules. Found by building every network of timm 1.0.31. The few suitable networks of
# these modules can be created, but are not listed.
UNSUITABLE_MODULES = tuple(
    """
    byoanet coat convit convmixer crossvit csatv2 efficientformer efficientformer_v2 efficientvim efficientvit_msra
    gcvit gemma4_vit hiera levit maxxvit mlp_mixer nest pit sequencer shvit tnt visformer volo
    """.split()  # noqa: SIM905
)
UNSUITABLE = {"sedarknet21", "bat_resnext26ts"}


class TimmBackbone(Backbone):
    """The timm network `name` up to the coarsest of `strides`, without pooling, class layer and auxiliary heads.

    Maps are selected by the stride that timm states for them. Networks without padding (Inception) and networks that
    round down (VGG) return maps a few cells smaller than ceil(size / stride). These maps are resized bilinearly, so
    that a cell covers the same pixels in every network and necks can add levels without cropping. Some networks
    require image sides that are multiples of a patch or of the coarsest stride (Swin, HRNet). For these, images are
    padded with zeros at the bottom and right, and maps are cropped.

    Raises UserError for an unknown name, for a network without a map at one of `strides`, for a network that accepts
    one image size only, and for `stochastic_depth` on a network for which timm has none.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int] = (4, 8, 16, 32),
        input_channels: int = 3,
        stochastic_depth: float | None = None,
    ) -> None:
        import timm  # here, since networks of this package do not need it

        super().__init__()
        if not timm.is_model(name):
            raise unknown_name("backbone", name, [*timm.list_models(), *LISTED])
        options: dict[str, Any] = dict(timm_channels(input_channels))
        with torch.device("meta"):
            complete = _create(name, **options)
        info: Any = complete.feature_info
        index_of = dict(zip(info.reduction(), feature_indices(complete), strict=True))
        missing = [stride for stride in strides if stride not in index_of]
        if missing:
            raise UserError(
                f"'{name}' cannot serve as a backbone: it has no feature map at stride {missing}, only at "
                f"{sorted(index_of)}. Choose another network, such as resnet50, convnext_tiny, "
                "swin_tiny_patch4_window7_224 or vit_small_patch16_224."
            )
        self.name, self.input_channels = name, input_channels
        strides = sorted(strides)
        options |= {"out_indices": tuple(index_of[stride] for stride in strides)}
        self.network = _create(name, **options)
        if stochastic_depth:
            self.network = _dropping(name, stochastic_depth, lambda more: create_features(name, **options, **more))
        self.levels = extractor_levels(self.network)
        self._size_multiple = size_multiple(complete, name, strides[-1], input_channels)
        self._channels_last = returns_channels_last(self.network)

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        maps = self.network(padded(images, self._size_multiple))
        return [
            fitted(x, level, images, self._size_multiple, self._channels_last)
            for x, level in zip(maps, self.levels, strict=True)
        ]

    def published_names(self) -> dict[str, str]:
        """Keys of this module's state dict -> keys of the whole timm network, which published weight files use."""
        import timm

        with torch.device("meta"):
            whole = timm.create_model(self.name).state_dict()
        return {f"network.{key}": name for key, name in whole_network_keys(self.network.state_dict(), whole).items()}


def build_backbone(
    name: str,
    strides: Sequence[int] = (4, 8, 16, 32),
    input_channels: int = 3,
    stochastic_depth: float | None = None,
) -> Backbone:
    """Build the backbone `name` with random weights for images of `input_channels`; a tag in the name is ignored.

    Arguments are those of `create_backbone`. Raises UserError for an unknown name, for a network without maps at
    `strides`, for one that takes RGB only, and for `stochastic_depth` on a network that does not have it.
    """
    architecture = split_tag(name)[0]
    if is_custom(name) or is_amoebanet(architecture):
        if stochastic_depth:
            raise no_stochastic_depth(name, stochastic_depth)
        own = CustomBackbone if is_custom(name) else AmoebaNet
        return own(name if is_custom(name) else architecture, strides, input_channels)
    if is_efficientnet(architecture):
        return EfficientNet(architecture, strides, stochastic_depth or 0.0, input_channels=input_channels)
    from backbones.plain import is_plain  # imports timm

    if is_plain(architecture):
        return _plain(architecture, strides, input_channels, stochastic_depth)
    return TimmBackbone(architecture, strides, input_channels, stochastic_depth)


def timm_channels(count: int) -> dict[str, int]:
    """The option of `timm.create_model` for images of this number of channels; none for 3, which is timm's default."""
    return {} if count == 3 else {"in_chans": count}


def backbone_names(pattern: str = "*") -> list[str]:
    """Names of backbones that match the shell pattern, sorted.

    AmoebaNet exists in any size: two sizes are listed, and another one only if `pattern` is its exact name.
    """
    import timm

    unsuitable = {name for module in UNSUITABLE_MODULES for name in timm.list_models(module=module)} | UNSUITABLE
    amoebanets = {pattern} if is_amoebanet(pattern) else set(fnmatch.filter(LISTED, pattern))
    return sorted((set(timm.list_models(pattern)) - unsuitable) | amoebanets)


def _create(name: str, **options: Any) -> nn.Module:
    """The feature extractor of timm's network `name`. Raises UserError if timm has none."""
    try:
        return create_features(name, **options)
    except (RuntimeError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"'{name}' cannot serve as a backbone: timm has no feature maps of it ({error}).") from error


def _plain(name: str, strides: Sequence[int], input_channels: int, stochastic_depth: float | None) -> PlainBackbone:
    from backbones.plain import PlainBackbone

    if not stochastic_depth:
        return PlainBackbone(name, strides, input_channels)
    return _dropping(name, stochastic_depth, lambda options: PlainBackbone(name, strides, input_channels, options))


def _dropping(name: str, rate: float, build: Callable[[dict[str, Any]], Network]) -> Network:
    """The network that `build` creates with timm's option for stochastic depth. Raises UserError if it has none."""
    from timm.layers import DropPath

    try:
        network = build({"drop_path_rate": rate})
    except TypeError as error:
        raise no_stochastic_depth(name, rate) from error
    if not any(isinstance(module, DropPath) for module in network.modules()):
        raise no_stochastic_depth(name, rate)
    return network


def no_stochastic_depth(name: str, rate: float) -> UserError:
    """The error for a network without stochastic depth. The caller raises it."""
    return UserError(
        f"`stochastic_depth={rate}` cannot be set for '{name}': it has no residual branches that can be dropped, or "
        "sets the rate in its own code. Leave it out.",
        settings=("stochastic_depth",),
    )
