"""Any timm network with maps at the usual strides as a `Backbone`."""

from __future__ import annotations

import contextlib
import fnmatch
from collections.abc import Sequence
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.layers import Format
from torch import Tensor, nn

from backbones.amoebanet import LISTED, AmoebaNet, is_amoebanet
from backbones.architecture import is_efficientnet
from backbones.base import Backbone, Level
from backbones.custom import CustomBackbone, is_custom
from backbones.efficientnet import EfficientNet
from backbones.errors import UserError, unknown_name
from backbones.provenance import split_tag

# timm's modules whose networks lack one of the strides 4, 8, 16, 32 or take one image size only, and two such networks
# of other modules; found by building every network of timm 1.0.31. Others of these modules can be built, but are rare.
UNFIT_MODULES = tuple(
    """
    beit byoanet cait coat convit convmixer crossvit csatv2 deepseek_vit deit efficientformer efficientformer_v2
    efficientvim efficientvit_msra eva gcvit gemma4_vit hiera levit maxxvit mlp_mixer naflexvit nest pit qwen3_vit
    sequencer shvit tnt visformer vision_transformer vision_transformer_hybrid vision_transformer_relpos
    vision_transformer_sam vitamin volo xcit
    """.split()  # noqa: SIM905
)
UNFIT = {"sedarknet21", "bat_resnext26ts"}


class TimmBackbone(Backbone):
    """The timm network `name` up to the coarsest of `strides`, without pooling, class layer and auxiliary heads.

    Maps are picked by the stride timm states for them. Networks without padding (Inception) or that round down (VGG)
    give maps a few cells short of ceil(size / stride); those are stretched bilinearly, so that cell i of every network
    lies over the same pixels and necks can add levels without cropping. Where a network insists on whole patches (Swin)
    or on halves that fit (HRNet), the image is padded with zeros to whole cells of the coarsest map and maps are cut.

    Raises UserError for an unknown name, for a network without a map at one of `strides`, and for one that
    takes a single image size.
    """

    def __init__(self, name: str, strides: Sequence[int] = (4, 8, 16, 32)) -> None:
        super().__init__()
        if not timm.is_model(name):
            raise unknown_name("backbone", name, [*timm.list_models(), *LISTED])
        with torch.device("meta"):
            probe = _build(name)
        features: Any = probe.feature_info
        index_of = dict(zip(features.reduction(), features.out_indices, strict=True))
        missing = [stride for stride in strides if stride not in index_of]
        if missing:
            raise UserError(
                f"'{name}' cannot serve as a backbone: it has no feature map at stride {missing}, only at "
                f"{sorted(index_of)}. Plain vision transformers keep one resolution throughout; take a hierarchical "
                "network such as resnet50, convnext_tiny or swin_tiny_patch4_window7_224."
            )
        self.name = name
        wanted = sorted(strides)
        self.network = _build(name, out_indices=tuple(index_of[stride] for stride in wanted))
        info: Any = self.network.feature_info
        self.levels = tuple(Level(channels, stride) for channels, stride in zip(info.channels(), wanted, strict=True))
        self._whole_cells = _whole_cells(probe, name, wanted[-1])
        self._channels_last = getattr(self.network, "output_fmt", None) == Format.NHWC

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> [(B, channels, ceil(H / stride), ceil(W / stride)) for each level]."""
        height, width = images.shape[-2:]
        maps = self.network(F.pad(images, (0, -width % self._whole_cells, 0, -height % self._whole_cells)))
        if self._channels_last:
            maps = [x.permute(0, 3, 1, 2) for x in maps]
        sizes = [(-(-height // level.stride), -(-width // level.stride)) for level in self.levels]
        if self._whole_cells > 1:
            maps = [x[:, :, :rows, :columns] for x, (rows, columns) in zip(maps, sizes, strict=True)]
        return [_stretch(x, size) for x, size in zip(maps, sizes, strict=True)]

    def published_names(self) -> dict[str, str]:
        """This module's state-dict keys -> those of the whole timm network, as its published files spell them.

        timm's feature extractors wrap or flatten some networks: `features.0.weight` becomes `features_0.weight`.
        """
        with torch.device("meta"):
            whole = timm.create_model(self.name).state_dict().keys()
        flattened = {key.replace(".", "_", 1): key for key in whole} | {key: key for key in whole}
        names = {}
        for key in self.state_dict():
            inner = key.removeprefix("network.")
            unwrapped = inner.removeprefix("model.").removeprefix("body.")
            names[key] = flattened.get(inner) or flattened.get(unwrapped) or inner
        return names


def build_backbone(name: str, strides: Sequence[int] = (4, 8, 16, 32)) -> Backbone:
    """The network `name` (a tag after a dot is ignored), `module:function` or STUDY#NETWORK, with random weights.

    Raises UserError for an unknown name or a network without maps at `strides`.
    """
    if is_custom(name):
        return CustomBackbone(name, strides)
    architecture = split_tag(name)[0]
    if is_amoebanet(architecture):
        return AmoebaNet(architecture, strides)
    return EfficientNet(architecture, strides) if is_efficientnet(architecture) else TimmBackbone(architecture, strides)


def backbone_names(pattern: str = "*") -> list[str]:
    """Names that match the shell pattern, sorted: EfficientNets and AmoebaNets are built here, others by timm.

    Two AmoebaNets are listed; one of another size is found by its name alone.
    """
    unfit = {name for module in UNFIT_MODULES for name in timm.list_models(module=module)}
    ours = {pattern} if is_amoebanet(pattern) else set(fnmatch.filter(LISTED, pattern))
    return sorted((set(timm.list_models(pattern)) - unfit - UNFIT) | ours)


def _build(name: str, **options: Any) -> nn.Module:
    """The feature extractor for `name`; networks of a fixed input size that can take any are told to."""
    try:
        config = timm.get_pretrained_cfg(name)
        if config is not None and config.fixed_input_size:
            with contextlib.suppress(TypeError):
                return timm.create_model(name, features_only=True, strict_img_size=False, **options)
        return timm.create_model(name, features_only=True, **options)
    except (RuntimeError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        raise UserError(f"'{name}' cannot serve as a backbone: timm has no feature maps of it ({error}).") from error


def _whole_cells(network: nn.Module, name: str, stride: int) -> int:
    """What image sides have to be a multiple of: 1, or `stride`; tried out on a network without storage.

    Raises UserError for a network that takes one image size only.
    """
    for multiple in (1, stride):
        height, width = (side + -side % multiple for side in (333, 500))
        try:
            with torch.no_grad():
                network.eval()(torch.empty(1, 3, height, width, device="meta"))
            return multiple
        except (RuntimeError, AssertionError, ValueError) as error:
            reason = error
    raise UserError(
        f"'{name}' cannot serve as a backbone: it does not take images of any size, as the tasks here need "
        f"({height}x{width} was tried; {type(reason).__name__}: {str(reason)[:100]})."
    )


def _stretch(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) -> (B, C, *size), bilinearly; untouched where it measures so already."""
    return x if x.shape[-2:] == size else F.interpolate(x, size=size, mode="bilinear", align_corners=False)
