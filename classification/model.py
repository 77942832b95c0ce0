"""The classifier: a backbone, an optional neck and a head. A plain module, independent of data and training.

`classification.build` creates classifiers by name and loads their weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from backbones.base import CachedFeatures, neck_inputs, pyramid_strides, trunk_of
from backbones.efficientnet import EfficientNetClassifier
from backbones.memory_efficient import norm_act, spatial_mean

if TYPE_CHECKING:
    from backbones.provenance import Provenance

NECK_STRIDES = (8, 16, 32)
DROPOUT = 0.2  # before the class layer of a pooled pyramid, as in EfficientNet-B0


class Classifier(nn.Module):
    """Computes the logits of an image's classes.

    Args:
        backbone: the part that the protocol "frozen" freezes, and that other tasks load from a run.
        head: computes logits from the feature maps of the neck, or of the backbone without a neck. Its last layer is
            `head.classifier`.
        provenance: origin of the backbone's weights; by default that of `backbone.provenance`.
        neck: fuses the backbone's feature maps at strides 8, 16 and 32. If it also has a map at stride 4, for other
            networks, the head does not use it.
        input_channels: number of channels of the images, C.

    Attributes:
        neck_is_trained: whether the neck has the weights of a training.
    """

    neck_is_trained = False

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module,
        provenance: Provenance | None = None,
        neck: nn.Module | None = None,
        input_channels: int = 3,
    ):
        super().__init__()
        self.input_channels = input_channels
        self.backbone = backbone
        self.neck = neck
        self.head = head
        self._provenance = provenance
        if neck is not None:
            self._inputs = neck_inputs(backbone, neck)
            self._pooled = [i for i, stride in enumerate(pyramid_strides(neck)) if stride >= NECK_STRIDES[0]]

    @property
    def provenance(self) -> Provenance:
        """Origin of the backbone's weights."""
        return self.backbone.provenance if self._provenance is None else self._provenance  # type: ignore[return-value]

    @provenance.setter
    def provenance(self, provenance: Provenance) -> None:
        self._provenance = provenance

    def forward(self, images: Tensor | CachedFeatures) -> Tensor:
        """Normalised images (B, C, H, W) float -> logits (B, K)."""
        maps = self.maps(images)
        return self.head(maps) if self.neck is None else self.outputs(self.neck(maps))

    def outputs(self, pyramid: Sequence[Tensor]) -> Tensor:
        """The neck's maps -> logits (B, K)."""
        return self.head([pyramid[i] for i in self._pooled])

    def maps(self, images: Tensor | CachedFeatures) -> list[Tensor]:
        """The inputs of neck or head: feature maps (B, C, h, w), or (B, C) if the backbone includes the pooling."""
        if not isinstance(images, CachedFeatures):
            return self._selected(self.backbone(images))
        if trunk_of(self.backbone) is self.backbone:
            return images.maps
        return self._selected(self.backbone.levels_of(images.maps, images.size))  # type: ignore[operator]

    def features_to_cache(self, images: Tensor) -> list[Tensor]:
        """What a frozen backbone computes for the same image in every epoch: `maps`, or the outputs of its trunk."""
        if trunk_of(self.backbone) is self.backbone:
            return self.maps(images)
        return self.backbone.trunk_maps(images)  # type: ignore[operator]

    def _selected(self, maps: Tensor | list[Tensor]) -> list[Tensor]:
        if isinstance(maps, Tensor):
            return [maps]
        if self.neck is None:
            return maps[-1:]
        return [maps[i] for i in self._inputs]


class ConvHead(nn.Module):
    """EfficientNet's head: 1x1 convolution on the coarsest map, global average pooling, dropout and linear layer.

    It uses the layers of `network` itself, not copies.
    """

    def __init__(self, network: EfficientNetClassifier) -> None:
        super().__init__()
        self.conv_head, self.bn2, self.act = network.conv_head, network.bn2, network.act
        self.dropout, self.classifier = network.dropout, network.classifier

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, H, W)] -> logits (B, K)."""
        x = norm_act(self.bn2, self.act, self.conv_head(maps[-1]))
        return self.classifier(self.dropout(spatial_mean(x).flatten(1)))


class LinearHead(nn.Module):
    """The class layer of a network whose backbone includes everything before it."""

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C)] -> logits (B, K)."""
        return self.classifier(maps[0])


class PyramidHead(nn.Module):
    """ReLU and global average pooling of every map, concatenated, then dropout and a linear layer."""

    def __init__(self, features: int, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(DROPOUT)
        self.classifier = nn.Linear(features, num_classes)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """[(B, C, H, W) of each level] -> logits (B, K)."""
        pooled = torch.cat([x.relu().mean((2, 3)) for x in maps], dim=1)
        return self.classifier(self.dropout(pooled))
