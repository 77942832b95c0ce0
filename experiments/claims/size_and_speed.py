"""Checks claims of size and speed, and the sizes of networks with claimed scores. No data are needed.

The claims are from the announcement of EfficientNet (Google AI blog, May 2019), and from comparisons of networks for
transfer learning that repeat it with figures of other papers. Sources are named as precisely as they could be traced.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import torch

from backbones.compat import multiply_adds
from detection.model import create_detector
from engine.published import TOLERANCE, classifier_of, published
from experiments.claims.row import ClaimRow
from experiments.costs.counts import classifier_counts
from experiments.costs.isolated_timing import IsolatedCost, measure_isolated
from experiments.report.formatting import billions, millions

BLOG = "Google AI blog, 29 May 2019"
PAPER = "EfficientNet, arXiv:1905.11946"
TOLERATED = 0.1  # share by which a measured ratio may be below the claimed one, because machines differ
FAMILY = tuple(f"efficientnet_b{phi}" for phi in range(8))


@dataclass(frozen=True)
class SpeedUp:
    """A claimed speed-up on one CPU core with batch 1 (paper v5, table 4).

    Attributes:
        slow, slow_size: name and image size in pixels of the slower network.
        fast, fast_size: the same of the faster one.
        times: the claimed ratio of their times.
        seconds: the published times of both.
    """

    slow: str
    slow_size: int
    fast: str
    fast_size: int
    times: float
    seconds: tuple[float, float]


SPEED_UPS = (
    SpeedUp("amoebanet_b", 480, "efficientnet_b7", 600, 6.1, (19.0, 3.1)),
    SpeedUp("resnet152", 224, "efficientnet_b1", 240, 5.7, (0.554, 0.098)),
)
NAMES = {"amoebanet_b": "GPipe (AmoebaNet-B)", "resnet152": "ResNet-152"}


def speed_up(claim: SpeedUp, passes: int) -> ClaimRow:
    """Time both networks alternately, each pass in a process of its own, and take the median of the ratios."""
    pairs = [
        (measure_isolated(claim.slow, claim.slow_size), measure_isolated(claim.fast, claim.fast_size))
        for _ in range(passes)
    ]
    ratio = statistics.median(statistics.median(s.seconds) / statistics.median(f.seconds) for s, f in pairs)
    slow, fast = ([pair[i] for pair in pairs] for i in (0, 1))
    name = claim.fast.removeprefix("efficientnet_").upper()
    return ClaimRow(
        f"{name} is {claim.times:g} times faster on CPU than {NAMES[claim.slow]}",
        f"{PAPER}v5, table 4 ({claim.seconds[0]:g} s against {claim.seconds[1]:g} s); {BLOG}",
        f"one core, batch 1, fp32, {claim.slow} at {claim.slow_size} px and {claim.fast} at {claim.fast_size} px in "
        f"turns, {passes} times each",
        f"{ratio:.1f} times: {_time(slow)} against {_time(fast)}",
        _ratio_verdict(ratio, claim.times),
    )


def _time(costs: list[IsolatedCost]) -> str:
    seconds = statistics.median(second for cost in costs for second in cost.seconds)
    return f"{seconds:.3g} s and {max(cost.peak_memory_mb for cost in costs) / 1024:.1f} GiB at the peak"


def _ratio_verdict(ratio: float, claimed: float) -> str:
    if ratio >= claimed * (1 - TOLERATED):
        return "holds"
    return f"partly holds: {ratio:.1f} times, not {claimed:g}" if ratio > 1 else "does not hold here"


def b7_and_gpipe_size() -> ClaimRow:
    """Compare the parameters of B7 and of GPipe's network."""
    b7, gpipe = (classifier_counts(name, 224)["params"] for name in ("efficientnet_b7", "amoebanet_b"))
    known = classifier_of("amoebanet_b")
    assert known
    assert known.params
    deviation = gpipe / known.params.value - 1
    return ClaimRow(
        "B7 is 8.4 times smaller than GPipe",
        f"{PAPER}v5, table 2; {BLOG}",
        "parameters of both networks counted, with 1000 classes",
        f"{gpipe / b7:.1f} times: {millions(gpipe)} ({100 * deviation:+.1f}% of the published 557 M) against "
        f"{millions(b7)}",
        _ratio_verdict(round(gpipe / b7, 1), 8.4) if abs(deviation) <= TOLERANCE else "not checked: another network",
    )


def b4_and_resnet50_cost() -> ClaimRow:
    """Compare the multiply-adds of B4 at 380 px and ResNet-50 at 224 px."""
    b4, resnet = (classifier_counts(name, size)["macs"] for name, size in (("efficientnet_b4", 380), ("resnet50", 224)))
    return ClaimRow(
        "B4 needs about as many multiply-adds as ResNet-50, and scores 82.6% against 76.3%",
        f"{BLOG} (82.6 and 76.3); {PAPER}v5, table 2 (82.9 and 76.0)",
        "multiply-adds counted at 380 and 224 px; scores: see the rows of the two networks",
        f"{billions(b4)} against {billions(resnet)}, {b4 / resnet:.2f} times",
        "holds for multiply-adds" if b4 / resnet < 1 + TOLERATED else "does not hold",
    )


def family_sizes() -> ClaimRow:
    """Compare the counts of B0 to B7 with table 2."""
    disagreements, texts = [], []
    for name in FAMILY:
        known = classifier_of(name)
        assert known is not None
        counts = classifier_counts(name, known.image_size)
        texts.append(f"{millions(counts['params'])} and {billions(counts['macs'])}")
        for kind, published_count in (("params", known.params), ("macs", known.macs)):
            assert published_count is not None
            if published_count.disagrees(counts[kind]):
                deviation = 100 * (counts[kind] / published_count.value - 1)
                disagreements.append(f"{name.removeprefix('efficientnet_').upper()} {kind} {deviation:+.1f}%")
    return ClaimRow(
        "B0 to B7 have 5.3 to 66 M parameters and need 0.39 to 37 G multiply-adds",
        f"{PAPER}v5, table 2",
        "all eight counted at their own sizes; 2% and the published figure's rounding are allowed",
        f"B0 {texts[0]}, B7 {texts[-1]}",
        f"holds except for {', '.join(disagreements)}" if disagreements else "holds for all eight",
    )


def other_networks_on_imagenet() -> ClaimRow:
    """List published scores with the multiply-adds that are counted here."""
    texts = []
    for name in ("vgg16", "resnet50", "inception_v3", "mobilenetv2_100", "efficientnet_b0"):
        known = classifier_of(name)
        assert known is not None
        macs = classifier_counts(name, known.image_size)["macs"]
        texts.append(f"{name} {100 * known.scores['top1']:.1f} with {billions(macs)}")
    return ClaimRow(
        "EfficientNet beats VGG, Inception, ResNet and MobileNet on ImageNet",
        f"{PAPER}v5, table 2, and the networks' own papers",
        "published top-1 and the multiply-adds counted here; commands: see the row of each network",
        "; ".join(texts),
        "holds for the recipes of 2019; ResNet-50 by recipe A1 scores 80.4, above B2: recipes are part of the score",
    )


def noisy_student() -> ClaimRow:
    """Trace the 88.4% to its source, and count the parameters of that network."""
    params = classifier_counts("efficientnet_l2", 224)["params"]
    return ClaimRow(
        "EfficientNet reaches 88.4% top-1 and 98.2% top-5 on ImageNet",
        "Noisy Student, arXiv:1911.04252, table 2: EfficientNet-L2, 88.4 and 98.7, with 300M more images",
        "parameters of L2 counted; command: python -m classification.eval --backbone tf_efficientnet_l2.ns_jft_in1k "
        "--data.root IMAGENET",
        f"{millions(params)} parameters; timm measured 88.36 and 98.66 with these weights",
        "top-1 has a source; published top-5 is 98.7, not 98.2. Without extra images the best is B7's 84.3",
    )


def coco() -> ClaimRow:
    """Count EfficientDet-D7, and name the sources of 52.2 and 50.0."""
    with torch.device("meta"):
        model = create_detector("tf_efficientnet_b6", 90, 7, style="tensorflow").eval()
        macs = multiply_adds(model, torch.zeros(1, 3, 1536, 1536))
    params = sum(p.numel() for p in model.parameters())
    known = next(row for row in published("efficientnet_b6") if row.neck == "bifpn 7")
    assert known.params
    assert known.macs
    agrees = not (known.params.disagrees(params) or known.macs.disagrees(macs))
    return ClaimRow(
        "EfficientNet as backbone reaches 52.2 AP on COCO, against 50.0 for ResNets",
        "52.2: EfficientDet-D7 on test-dev, abstract of the CVPR 2020 paper (53.7 in arXiv:1911.09070v7, table 2). "
        "50.0: none found; the best rival in that table is AmoebaNet with NAS-FPN and AutoAugment, 50.7",
        "D7 counted at 1536 px; to score it, pass --coco FOLDER --detector FILE",
        f"{millions(params)} and {billions(macs)}, published 51.9 M and 325 G",
        ("52.2 has a source, and the counts agree" if agrees else "52.2 has a source, but the counts disagree")
        + "; 50.0 has no source, and the best rival is not a ResNet",
    )
