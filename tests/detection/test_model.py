"""The detector compared with effdet with the same weights, published sizes, and files in effdet's format."""

from dataclasses import asdict

import pytest
import torch
from effdet import DetBenchPredict, create_model

from backbones import create_backbone
from backbones.bifpn import Fusion, MaxPool
from backbones.errors import BadInput, UserError
from backbones.necks import NECKS
from backbones.scaling import SCALES
from detection import effdet
from detection.classes import COCO_CLASSES
from detection.config import TrainConfig
from detection.model import create_detector

# arXiv:1911.09070 table 1, params in millions.
PAPER = {"0": 3.9, "1": 6.6, "2": 8.1, "3": 12.0, "4": 20.7, "5": 33.7, "6": 51.9, "7": 51.9, "7x": 77.0}


def randomise(model):
    """Set weights, affine parameters and running statistics to random values."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1 and name.endswith("weight"):
            parameter.data.uniform_(0.5, 1.5, generator=generator)
        elif parameter.ndim == 1:
            parameter.data.normal_(0, 0.2, generator=generator)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.2, generator=generator)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5, generator=generator)


def effdet_model(name, size, classes=90):
    torch.manual_seed(1)  # with other seeds, scores of neighbouring cells can be equal up to rounding
    model = create_model(
        name, bench_task="", pretrained=False, pretrained_backbone=False, num_classes=classes, image_size=(size, size)
    )
    randomise(model.eval())
    # Scale the outputs to a fixed mean and standard deviation per channel. Then scores do not saturate, they are
    # distinct, and box offsets stay below our limit on sizes, which effdet does not have.
    with torch.inference_mode():
        outputs = model(torch.randn(1, 3, size, size))
    for head, maps, mean, deviation in zip((model.class_net, model.box_net), outputs, (-3, 0), (0.5, 0.3), strict=True):
        last = head.predict.conv_pw
        values = torch.cat([x.flatten(2) for x in maps], dim=2)[0]
        gain = deviation / values.std(1)
        last.bias.data = (last.bias.data - values.mean(1)) * gain + mean
        last.weight.data.mul_(gain[:, None, None, None])
    # In double precision: in single precision, some of the thousands of pairs of boxes are on the other side of the IoU
    # threshold because of rounding.
    return model.double()


class Outputs:
    """The last output of a network, so that each network runs only once; the largest takes seconds."""

    def __init__(self, model):
        self.hook = model.register_forward_hook(self.store)

    def store(self, model, inputs, outputs):
        self.last = outputs

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.hook.remove()


# Small inputs, so that large networks are fast. effdet needs multiples of 128, and of 256 with P8.
SAME = [
    ("efficientdet_d0", 256),
    ("tf_efficientdet_d0", 256),
    ("tf_efficientdet_d1", 256),
    ("tf_efficientdet_d2", 256),
    ("tf_efficientdet_d3", 128),
    pytest.param("tf_efficientdet_d7x", 256, marks=pytest.mark.slow),
    ("tf_efficientdet_lite0", 256),
]


@pytest.mark.parametrize(("name", "size"), SAME)
def test_same_weights_same_detections(name, size):
    """Logits within 1e-4; after NMS scores within 1e-3 and boxes within 0.1 px; equal parameter counts."""
    reference = effdet_model(name, size)
    state = reference.state_dict()
    backbone, phi, classes = effdet.describe(state, name)
    ours = create_detector(backbone, classes, phi, nms="hard", style=effdet.style_of(state)).eval().double()
    effdet.load(ours, state, name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in reference.parameters())

    images = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(2)).double()
    with torch.inference_mode():
        whole = {"img_scale": torch.ones(1), "img_size": torch.full((1, 2), float(size))}  # makes effdet clip, too
        with Outputs(reference) as expected_outputs, Outputs(ours) as outputs:
            expected = DetBenchPredict(reference)(images, whole)[0]
            detections = ours.predict(images)
    scores = torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1, classes) for x in expected_outputs.last[0]], dim=1)
    torch.testing.assert_close(outputs.last[0], scores, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(detections.scores[0], expected[:, 4], atol=1e-3, rtol=0)
    # Not compared by rank, since rounding can swap detections of nearly equal scores. Each detection must equal one of
    # the other network, except those whose score is within rounding of the lowest one.
    same = (
        (detections.labels[0][:, None] == expected[:, 5].long() - 1)
        & ((detections.scores[0][:, None] - expected[:, 4]).abs() < 1e-3)
        & ((detections.boxes[0][:, None] - expected[:, :4]).abs().amax(-1) < 0.1)
    )
    sure = expected[:, 4] > expected[:, 4].min() + 1e-3
    assert sure.sum() > 50
    assert expected[:, 4].min() > 0.01  # a hundred real detections, not padding
    assert same.any(0)[sure].all()
    assert same.any(1)[detections.scores[0] > expected[:, 4].min() + 1e-3].all()


@pytest.mark.parametrize("phi", list(PAPER))
def test_published_sizes(phi):
    """Parameters within 2% of the paper's table, counted on the meta device."""
    with torch.device("meta"):
        model = create_detector("tf_" + SCALES[phi].backbone, 90, phi, style="tensorflow")
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert millions == pytest.approx(PAPER[phi], rel=0.02)


def test_effdet_file_through_create_detector(tmp_path):
    reference = effdet_model("tf_efficientdet_d0", 256)
    file = tmp_path / "tf_efficientdet_d0.pth"
    torch.save(reference.state_dict(), file)
    ours = create_detector("tf_efficientnet_b0", 90, 0, pretrained=file).eval().double()
    images = torch.randn(1, 3, 256, 256).double()
    with torch.inference_mode():
        expected, _ = reference(images)
        torch.testing.assert_close(
            ours(images)[0],
            torch.cat([x.permute(0, 2, 3, 1).reshape(1, -1, 90) for x in expected], dim=1),
            atol=1e-4,
            rtol=1e-4,
        )


def test_another_class_count_drops_the_class_layer_with_a_warning(tmp_path, caplog):
    reference = effdet_model("tf_efficientdet_d0", 256)
    file = tmp_path / "tf_efficientdet_d0.pth"
    torch.save(reference.state_dict(), file)
    with caplog.at_level("WARNING"):
        ours = create_detector("tf_efficientnet_b0", 3, 0, pretrained=file)
    assert "class_head.predict.pointwise.weight" in caplog.text
    loaded = ours.box_head.convs[0].depthwise.weight
    torch.testing.assert_close(loaded, reference.box_net.conv_rep[0].conv_dw.weight.float())


def test_weights_of_another_network_are_refused(tmp_path):
    file = tmp_path / "tf_efficientdet_d0.pth"
    torch.save(effdet_model("tf_efficientdet_d0", 256).state_dict(), file)
    with pytest.raises(BadInput, match="pass `backbone='tf_efficientnet_b0'` and `phi='0'`"):
        create_detector("tf_efficientnet_b1", 90, 1, pretrained=file)


@pytest.mark.parametrize(
    ("network", "backbone", "phi", "file", "mean"),
    [
        ("tf_efficientdet_lite0", "tf_efficientnet_lite0", "lite0", "tf_efficientdet_lite0-1.pth", 0.5),
        ("tf_efficientdet_d0", "tf_efficientnet_b0", 0, "tf_efficientdet_d0_ap-1.pth", 0.5),
        ("tf_efficientdet_d0", "tf_efficientnet_b0", 0, "tf_efficientdet_d0_34-1.pth", 0.485),
    ],
)
def test_provenance_of_a_complete_detector(network, backbone, phi, file, mean, tmp_path):
    """The file is recorded, not random weights, with the normalisation of its training."""
    torch.save(effdet_model(network, 128).state_dict(), tmp_path / file)
    weights = create_detector(backbone, 90, phi, pretrained=tmp_path / file).backbone.provenance
    assert (weights.source, weights.recipe) == (f"file:{tmp_path / file}", "effdet")
    assert (weights.mean[0], weights.run, weights.continues) == (mean, None, False)
    assert len(weights.sha256) == 64


def test_a_backbone_that_is_a_module_gets_the_weights_of_a_file(tmp_path):
    file = tmp_path / "w.pth"
    torch.save(create_backbone("resnet18").state_dict(), file)
    backbone = create_backbone("resnet18")
    detector = create_detector(backbone, 2, pretrained=file)
    stored = torch.load(file, weights_only=True)
    assert all(torch.equal(value, stored[key]) for key, value in backbone.state_dict().items())
    assert detector.backbone.provenance.source == f"file:{file}"


@pytest.mark.parametrize("name", ["tf_efficientdet_d6", "tf_efficientdet_d7"])
def test_d6_and_d7_differ_only_by_file_name(name):
    with torch.device("meta"):
        model = create_model(name, bench_task="", pretrained=False, pretrained_backbone=False)
    assert effdet.describe(model.state_dict(), f"{name}.pth")[1] == name[-1]
    with pytest.raises(BadInput, match="`phi='6'`"):
        effdet.describe(model.state_dict(), "unnamed.pth")
    assert effdet.describe(model.state_dict(), "unnamed.pth", phi=7)[1] == "7"


def test_coco_has_80_classes_with_ids_up_to_90():
    assert len(COCO_CLASSES) == 80
    assert COCO_CLASSES[1] == "person"
    assert COCO_CLASSES[90] == "toothbrush"
    assert COCO_CLASSES[44] == "bottle"
    assert 12 not in COCO_CLASSES


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("size", [(96, 160), (131, 97)])
def test_necks_and_input_sizes(neck, size):
    model = create_detector("resnet18", 4, neck=neck)
    images = torch.randn(2, 3, *size)
    logits, deltas = model(images)
    count = sum(model.anchors.counts(size))
    assert logits.shape == (2, count, 4)
    assert deltas.shape == (2, count, 4)
    boxes = torch.tensor([[[10.0, 10, 60, 60]], [[0.0, 0, 1, 1]]])
    losses = model.loss(images, boxes, torch.tensor([[2], [-1]]))
    sum(losses.values()).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not idle


def test_the_backbone_never_changes_the_head():
    names = "resnet18", "mobilenetv2_100", "tf_efficientnet_lite0"
    heads = [create_detector(name, 5).class_head.state_dict() for name in names]
    assert {k: v.shape for k, v in heads[0].items()} == {k: v.shape for k, v in heads[1].items()}
    assert {k: v.shape for k, v in heads[0].items()} == {k: v.shape for k, v in heads[2].items()}


@pytest.mark.parametrize("backbone", ["resnet18", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("style", ["pytorch", "tensorflow"])
def test_style_sets_padding_and_biases_for_any_backbone(backbone, style):
    model = create_detector(backbone, 5, style=style)
    pools = [module for module in model.neck.modules() if isinstance(module, MaxPool)]
    assert pools
    assert {pool.same_padding for pool in pools} == {style == "tensorflow"}
    biases = {
        conv.bias is not None
        for fusion in model.neck.modules()
        if isinstance(fusion, Fusion)
        for conv in [fusion.conv.pointwise]
    }
    assert biases == {style == "tensorflow"}
    assert (model.box_head.convs[0].pointwise.bias is not None) == (style == "tensorflow")
    assert effdet.style_of(model.state_dict()) == style


def test_weights_of_a_complete_detector_set_the_style(tmp_path):
    torch.save(create_detector("resnet18", 5, style="tensorflow").state_dict(), tmp_path / "detector.pth")
    assert create_detector("resnet18", 5, pretrained=tmp_path / "detector.pth").style == "tensorflow"


def test_old_settings_have_the_style_by_the_backbones_name():
    for backbone, style in (("tf_efficientnet_lite0", "tensorflow"), ("resnet18", "pytorch")):
        stored = asdict(TrainConfig(backbone=backbone))
        assert TrainConfig.of(stored).style == "pytorch"
        del stored["style"]
        assert TrainConfig.of(stored).style == style


def test_unknown_names():
    with pytest.raises(UserError, match="bifpn"):
        create_detector("resnet18", 3, neck="bifp")
    with pytest.raises(UserError, match="lite0"):
        create_detector("resnet18", 3, phi="lite9")
