"""Decoders of segmentation-models-pytorch as segmentation uses them, without encoders.

If a test fails, look at segmentation_models_pytorch/decoders/NAME/decoder.py and model.py. The arguments that the model
passes to its decoder are repeated in segmentation/decoders.py.
"""

import pytest
import torch
from torch import nn

from segmentation import compat
from segmentation.decoders import DECODERS

IMAGE, CHANNELS = 64, [3, 8, 12, 16, 24, 32]  # at strides 1, 2, 4, 8, 16, 32


@pytest.mark.parametrize("name", [name for name, spec in DECODERS.items() if spec.build])
def test_a_decoder_takes_a_list_of_maps(name):
    spec = DECODERS[name]
    decoder = spec.build(CHANNELS)
    compat.initialize_decoder(decoder)
    strides = (1, 2, 4, 8, 16, 16 if spec.dilated else 32)
    maps = [torch.rand(2, c, IMAGE // s, IMAGE // s) for c, s in zip(CHANNELS, strides, strict=True)]
    features = decoder.eval()(maps)
    assert features.shape[:2] == (2, spec.channels)
    assert torch.isfinite(features).all()


def test_initialisation_changes_weights_and_clears_biases():
    decoder, head = nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Sequential(nn.Conv2d(4, 2, 1))
    for network, initialise in ((decoder, compat.initialize_decoder), (head, compat.initialize_head)):
        before = network[0].weight.clone()
        initialise(network)
        assert not torch.equal(network[0].weight, before)
        assert not network[0].bias.any()
