"""Networks prepared for inference against the original networks, with random batch norms."""

import copy

import pytest
import torch
from torch import nn

from backbones import create_backbone, prepare_for_inference
from backbones.inference import fold_batch_norms
from classification.build import create_classifier
from detection.model import create_detector
from segmentation.model import create_segmenter


def randomised(model):
    """The model in evaluation mode, with random statistics and scales in its batch norms."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model.eval()


def norms(model):
    """Number of batch norms."""
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def assert_close(first, second, tolerance):
    first, second = ([x] if isinstance(x, torch.Tensor) else list(x) for x in (first, second))
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype == torch.float32
        assert (a - b).abs().max() <= tolerance * b.abs().max()


@pytest.mark.parametrize(
    ("name", "remaining"),
    [
        ("efficientnet_b0", 0), ("tf_efficientnet_lite0", 0), ("resnet18", 0), ("mobilenetv2_100", 0),
        ("inception_v3", 0), ("vgg16_bn", 0), ("densenet121", None), ("amoebanet_b_n3_f16", None), ("convnext_atto", 0),
    ],
)  # fmt: skip
def test_same_maps(name, remaining):
    """All batch norms are folded if each one follows a convolution of its own."""
    backbone = randomised(create_backbone(name))
    before = copy.deepcopy(backbone.state_dict())
    prepared = prepare_for_inference(backbone)
    images = torch.randn(2, 3, 97, 130)
    with torch.inference_mode():
        assert_close(prepared(images), backbone(images), 1e-4)
        assert_close(prepared(images[:1]), backbone(images[:1]), 1e-4)  # gates multiply the weights for a single image
        assert [len(x) for x in prepared(images[:0])] == [0] * len(backbone.levels)
    assert remaining is None or norms(prepared) == remaining
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


BUILDERS = {
    "detector": lambda: create_detector("efficientnet_b0", 5),
    "softmax detector": lambda: create_detector("resnet18", 5, neck="bifpn_softmax"),
    "lite detector": lambda: create_detector("tf_efficientnet_lite0", 5, "lite0"),
    "panet detector": lambda: create_detector("mobilenetv2_100", 5, neck="panet"),
    "segmenter": lambda: create_segmenter("efficientnet_b0", 7),
    "unet": lambda: create_segmenter("resnet18", 7, "unet"),
    "deeplab": lambda: create_segmenter("resnet18", 7, "deeplabv3plus"),
    "classifier": lambda: create_classifier("efficientnet_b0", 9),
    "timm classifier": lambda: create_classifier("resnet18", 9),
}


@pytest.mark.parametrize("build", BUILDERS.values(), ids=BUILDERS)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 0.2)])
def test_same_outputs(build, precision, tolerance):
    model = randomised(build())
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.1)  # class layers are initialised with zero
    prepared = prepare_for_inference(model, precision)
    images = torch.randn(2, 3, 96, 128)
    with torch.inference_mode():
        assert_close(prepared(images), model(images), tolerance)
    assert norms(prepared) == 0


class Twice(nn.Module):
    """Cases that cannot be folded.

    A convolution before two norms, a norm after two convolutions, an output with a second use, a norm of the input.
    """

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(5))

    def forward(self, x):
        shared = self.norms[0](self.a(x)) + self.norms[1](self.a(x))
        reused = self.norms[2](self.b(x)) + self.norms[2](self.c(x))
        used_again = self.d(x)
        return shared + reused + self.norms[3](used_again) * used_again + self.norms[4](x)


def test_batch_norms_that_cannot_be_folded_are_unchanged():
    model = randomised(Twice())
    images = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        expected = model(images)
        assert fold_batch_norms(model, images) == 0
        torch.testing.assert_close(model(images), expected)
