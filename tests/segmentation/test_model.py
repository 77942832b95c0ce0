"""The segmenters: smp's logits from smp's files, any image size, and gradients everywhere."""

import pytest
import segmentation_models_pytorch as smp
import timm
import torch

from backbones import create_backbone
from backbones.errors import BadInput, UserError
from segmentation.decoders import DECODERS
from segmentation.model import create_segmenter

ARCHITECTURES = {
    "unet": smp.Unet,
    "fpn": smp.FPN,
    "deeplabv3plus": smp.DeepLabV3Plus,
    "pspnet": smp.PSPNet,
    "upernet": smp.UPerNet,
    "segformer": smp.Segformer,
}


def randomise(model):
    """Affine parameters and running statistics away from their initial values."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.ndim == 1 and name.endswith(("weight", "running_var")):
            tensor.data.uniform_(0.5, 1.5, generator=generator)
        elif tensor.ndim == 1:
            tensor.data.normal_(0, 0.2, generator=generator)


def theirs(decoder, backbone, classes=5):
    model = ARCHITECTURES[decoder](f"tu-{backbone}", encoder_weights=None, classes=classes)
    randomise(model)
    return model.eval()


@pytest.mark.parametrize("decoder", list(ARCHITECTURES))
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18"])
def test_smp_file_gives_smp_logits(decoder, backbone, tmp_path):
    reference = theirs(decoder, backbone)
    file = tmp_path / "smp.pth"
    torch.save(reference.state_dict(), file)
    ours = create_segmenter(backbone, 5, decoder, pretrained=file).eval()
    counts = [sum(p.numel() for p in model.decoder.parameters()) for model in (ours, reference)]
    assert counts[0] == counts[1]
    images = torch.randn(2, 3, 96, 160, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = reference(images)
        torch.testing.assert_close(ours(images), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.01


@pytest.mark.parametrize("decoder", list(DECODERS))
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18"])
def test_any_image_size(decoder, backbone):
    model = create_segmenter(backbone, 3, decoder)
    logits = model(torch.randn(2, 3, 97, 129))
    assert logits.shape == (2, 3, 97, 129)
    logits.square().mean().backward()
    unused = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not unused


@pytest.mark.parametrize("decoder", ["bifpn", "unet", "fpn"])
@pytest.mark.parametrize("backbone", ["tf_efficientnet_lite0", "resnet18"])
def test_padding_is_cropped_back(decoder, backbone):
    """Cells lie on the image in the same way whatever its size, also where padding depends on it, as TensorFlow's."""
    model = create_segmenter(backbone, 3, decoder).eval()
    images = torch.randn(1, 3, 97, 129)
    padded = torch.nn.functional.pad(images, (0, 31, 0, 31))
    with torch.inference_mode():
        torch.testing.assert_close(model(images), model(padded)[..., :97, :129])


def test_backbone_without_stride_two():
    for decoder in ("unet", "segformer"):
        assert create_segmenter("convnext_atto", 3, decoder)(torch.randn(2, 3, 97, 129)).shape == (2, 3, 97, 129)


@pytest.mark.parametrize(("phi", "width", "repeats"), [(0, 64, 3), (1, 88, 3), (4, 128, 3), (7, 128, 3)])
def test_phi_scales_up_to_the_paper(phi, width, repeats):
    """arXiv:1911.09070, section 5.2: on D4, BiFPN of 128 channels and head of 256, both repeated 3 times."""
    with torch.device("meta"):
        decoder = create_segmenter("resnet18", 21, phi=phi).decoder
    assert len(decoder.neck.layers) == repeats
    assert [layer.top_down[0].conv.pointwise.out_channels for layer in decoder.neck.layers] == [width] * repeats
    assert [block[0].pointwise.out_channels for block in decoder.head] == [2 * width] * 3
    assert decoder.neck.levels[0].stride == 4
    assert len(decoder.neck.levels) == 6


def test_paper_size():
    """Published: 17 M parameters and 18 B multiply-adds for D4's, at 512 px; what it leaves open makes a difference."""
    with torch.device("meta"):
        model = create_segmenter("efficientnet_b4", 21, phi=4)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(17, rel=0.1)


def test_dilation_is_timms():
    """Same weights, same maps as timm's network at output stride 16."""
    from backbones.dilation import create_dilated

    for name in ("tf_efficientnet_lite0", "efficientnet_b0"):
        reference = timm.create_model(name, features_only=True, output_stride=16, out_indices=(1, 4)).eval()
        randomise(reference)
        ours = create_dilated(name).eval()
        ours.load_state_dict(reference.state_dict())
        images = torch.randn(1, 3, 97, 129)
        with torch.inference_mode():
            for mine, yours in zip(ours(images), reference(images), strict=True):
                torch.testing.assert_close(mine, yours, atol=1e-4, rtol=1e-4)
        assert [level.stride for level in ours.levels] == [4, 16]


@pytest.mark.parametrize("backbone", ["vgg11", "swin_tiny_patch4_window7_224"])
def test_networks_that_cannot_be_dilated(backbone):
    with pytest.raises(UserError, match="dilated"):
        create_segmenter(backbone, 3, "deeplabv3plus")


def test_other_class_count_drops_the_class_layer_and_says_so(tmp_path, caplog):
    file = tmp_path / "smp.pth"
    reference = theirs("fpn", "resnet18")
    torch.save(reference.state_dict(), file)
    with caplog.at_level("WARNING"):
        ours = create_segmenter("resnet18", 2, "fpn", pretrained=file)
    assert "head.weight" in caplog.text
    torch.testing.assert_close(ours.decoder.network.p5.weight, reference.decoder.p5.weight)


def test_file_of_another_decoder(tmp_path):
    file = tmp_path / "smp.pth"
    torch.save(theirs("unet", "resnet18").state_dict(), file)
    with pytest.raises(BadInput, match="--decoder"):
        create_segmenter("resnet18", 5, "fpn", pretrained=file)


def test_unknown_names():
    with pytest.raises(UserError, match="unet"):
        create_segmenter("resnet18", 3, "unett")
    with pytest.raises(UserError, match="resnet18"):
        create_segmenter("resnet181", 3, "unet")
    with pytest.raises(UserError, match="lite0"):
        create_segmenter("resnet18", 3, phi="lite9")


def test_a_backbone_as_a_module():
    backbone = create_backbone("resnet18", strides=(2, 4, 8, 16, 32))
    for decoder in ("bifpn", "unet", "fpn"):
        assert create_segmenter(backbone, 3, decoder)(torch.randn(2, 3, 64, 64)).shape == (2, 3, 64, 64)


def test_a_file_fills_a_module_as_well(tmp_path):
    reference = theirs("fpn", "resnet18")
    torch.save(reference.state_dict(), tmp_path / "smp.pth")
    backbone = create_backbone("resnet18")
    ours = create_segmenter(backbone, 5, "fpn", pretrained=tmp_path / "smp.pth").eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), reference(images), atol=1e-4, rtol=1e-4)
