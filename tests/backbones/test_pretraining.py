"""Groups of pretraining: timm's published weights by rules, and the committed table of all of them."""

import csv
import re
from pathlib import Path

import pytest
import timm

from backbones.pretraining import GROUPS, Pretraining, group_of_record, pretraining_of
from backbones.pretraining_rules import RULES, SUPERVISED_WORDS
from backbones.pretraining_table import as_csv, main, table
from backbones.provenance import licence_of

TABLE = Path(__file__).parents[2] / "results" / "pretraining.csv"


def committed() -> tuple[str, list[dict[str, str]]]:
    """Timm's version of the committed table, and its rows."""
    first, *lines = TABLE.read_text().splitlines()
    return first.removeprefix("# timm "), list(csv.DictReader(lines))


def test_the_committed_table_is_that_of_the_installed_timm() -> None:
    version, rows = committed()
    assert len(rows) > 1500
    if version == timm.__version__:
        assert table() == rows
        assert as_csv(rows) == TABLE.read_text()
    else:  # names and tags may have changed, but a name of both versions keeps its group
        now = {row["name"]: row["group"] for row in table()}
        assert {row["name"]: row["group"] for row in rows if row["name"] in now}.items() <= now.items()


def test_every_group_is_a_known_one_and_few_are_unknown() -> None:
    _, rows = committed()
    assert {row["group"] for row in rows} <= set(GROUPS) - {"random"}
    assert [row["name"] for row in rows if row["group"] == "unknown"] == [
        f"vit_{size}_patch16_lingbot.robbyant" for size in ("base", "giant", "large", "small")
    ]
    assert all(row["data"] for row in rows if row["group"].startswith("supervised"))


def test_every_rule_is_used() -> None:
    """The first pattern that matches counts, so that one above can hide another."""
    _, rows = committed()
    first = {next((pattern for pattern, *_ in RULES if re.search(pattern, row["name"])), None) for row in rows}
    assert {pattern for pattern, *_ in RULES} <= first


@pytest.mark.parametrize(
    ("name", "group", "method", "data"),
    [
        ("resnet50.a1_in1k", "supervised, ImageNet-1k", "supervised", "ImageNet-1k"),
        ("vit_base_patch16_224.sam_in1k", "supervised, ImageNet-1k", "supervised", "ImageNet-1k"),  # an optimiser
        ("convnext_tiny.in12k_ft_in1k", "supervised, ImageNet-21k", "supervised", "ImageNet-12k, ImageNet-1k"),
        ("swin_base_patch4_window7_224.ms_in22k", "supervised, ImageNet-21k", "supervised", "ImageNet-22k"),
        ("deit_base_distilled_patch16_224.fb_in1k", "supervised, distilled", None, "ImageNet-1k"),
        ("regnety_160.deit_in1k", "supervised, ImageNet-1k", "supervised", "ImageNet-1k"),  # the teacher
        ("tf_efficientnet_b0.ns_jft_in1k", "supervised, other data", None, "JFT-300M, ImageNet-1k"),
        ("vit_small_patch14_dinov2.lvd142m", "self-supervised", "DINOv2", "LVD-142M"),
        ("vit_small_patch16_dinov3.lvd1689m", "self-supervised", "DINOv3: distilled from its ViT-7B", "LVD-1689M"),
        ("vit_base_patch16_224.mae", "self-supervised", "MAE", "ImageNet-1k"),
        ("convnextv2_tiny.fcmae", "self-supervised", "FCMAE", "ImageNet-1k"),
        ("convnextv2_tiny.fcmae_ft_in22k_in1k", "self-supervised, then supervised", "FCMAE",
         "ImageNet-1k, ImageNet-22k, ImageNet-1k"),
        ("beit_base_patch16_224.in22k_ft_in22k", "self-supervised, then supervised", None,
         "ImageNet-22k, ImageNet-22k"),
        ("vit_base_patch16_clip_224.openai", "image-text", "CLIP", "OpenAI WIT-400M"),
        ("convnext_base.clip_laion2b_augreg", "image-text", "CLIP", "LAION-2B"),
        ("convnext_base.clip_laion2b_augreg_ft_in1k", "image-text, then supervised", "CLIP", "LAION-2B, ImageNet-1k"),
        ("vit_base_patch16_siglip_224.webli", "image-text", "SigLIP", "WebLI"),
        ("eva02_tiny_patch14_224.mim_in22k", "self-supervised", None, "ImageNet-22k"),
        ("samvit_base_patch16.sa1b", "segmentation", "SAM, from MAE", "SA-1B"),
        ("vit_base_patch16_radio_v3.c_radio", "distilled", None, None),
    ],
)  # fmt: skip
def test_groups_of_well_known_weights(name: str, group: str, method: str | None, data: str | None) -> None:
    assert timm.is_model_pretrained(name)
    found = pretraining_of(*name.split(".", 1))
    assert (found.group, found.data) == (group, data)
    if method is not None:
        assert found.method == method


def test_a_tag_that_matches_no_rule_is_unknown() -> None:
    assert pretraining_of("resnet50", "newlab_in1k") == Pretraining("unknown", None, "ImageNet-1k")
    assert pretraining_of("resnet50", "a1") == pretraining_of("resnet50", None) == Pretraining("unknown")
    assert not re.fullmatch(SUPERVISED_WORDS, "newlab")


def test_groups_of_records_of_earlier_versions() -> None:
    assert group_of_record({"source": "random"}, "resnet18") == "random"
    assert group_of_record({"source": "timm:x", "tag": "a1_in1k"}, "resnet18.a1_in1k") == "supervised, ImageNet-1k"
    assert group_of_record({"source": "file:x", "tag": None}, "mine:Net") == "unknown"
    assert group_of_record({"source": "run:x", "tag": None}, "resnet18") == "run of this package"
    assert group_of_record({"source": "file:x", "group": "self-supervised"}, "resnet18") == "self-supervised"


def test_the_command_writes_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "t.csv")]) == 0
    assert (tmp_path / "t.csv").read_text().count("\n") == len(timm.list_pretrained()) + 2
    assert re.search(r"^ +\d+ unknown$", capsys.readouterr().out, re.M)


def test_licences() -> None:
    assert licence_of("resnet18", "fb_ssl_yfcc100m_ft_in1k") == "cc-by-nc-4.0"
    assert licence_of("resnet50", "bamboo") is None
