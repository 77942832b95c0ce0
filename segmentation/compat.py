"""Undocumented parts of segmentation-models-pytorch that segmentation uses: decoders without encoders.

tests/segmentation/test_compat.py checks them, and names the code to look at if they change.
"""

from __future__ import annotations

from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from segmentation_models_pytorch.decoders.fpn.decoder import FPNDecoder
from segmentation_models_pytorch.decoders.pspnet.decoder import PSPDecoder
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder

__all__ = [
    "DeepLabV3PlusDecoder",
    "FPNDecoder",
    "PSPDecoder",
    "SegformerDecoder",
    "UPerNetDecoder",
    "UnetDecoder",
    "initialize_decoder",
    "initialize_head",
]
