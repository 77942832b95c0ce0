"""Checks claims of accuracy with the `eval` command if the data are given. Otherwise states the command."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from backbones.errors import UserError
from backbones.provenance import TOP1, published_tags
from engine.published import Published, table
from experiments.claims.config import ClaimsConfig
from experiments.claims.row import ClaimRow

POINTS = 0.5  # tolerance for a reproduced accuracy: PyTorch resizes differently from TensorFlow
PACKAGED = tuple(f"tf_efficientnet_lite{phi}" for phi in range(3))


def detector(config: ClaimsConfig) -> ClaimRow:
    """Check the AP of a detector on COCO, if both are given."""
    return ClaimRow(
        "An EfficientDet on COCO, scored here",
        "EfficientDet, arXiv:1911.09070v7, table 2: D7 53.4 on val, D0 34.3",
        f"python -m detection.eval --checkpoint {config.detector or 'FILE'} --data.root {config.coco or 'COCO'}",
        *_scored("detection", "AP", config.detector, config.coco, config),
    )


def segmenter(config: ClaimsConfig) -> ClaimRow:
    """Check the mIoU of a run on ADE20K, if both are given."""
    return ClaimRow(
        "EfficientNet as backbone reaches 46.4 mIoU on ADE20K",
        "none found: neither paper scores ADE20K (EfficientDet's section 5.2 scores Pascal VOC 2012, 81.74 mIoU), and "
        "open-mmlab's model zoo has no EfficientNet there",
        f"python -m segmentation.eval --checkpoint {config.segmenter or 'RUN'} --data.root {config.ade20k or 'ADE20K'}",
        *_scored("segmentation", "mIoU", config.segmenter, config.ade20k, config, "no source"),
    )


def _scored(
    task: str, metric: str, model: str | None, data: str | None, config: ClaimsConfig, verdict: str = "no verdict"
) -> tuple[str, str]:
    if model is None or data is None:
        return "not scored: no data given", verdict
    result = _evaluate(task, ["--checkpoint", model, "--data.root", data], Path(config.output) / task)
    return (result, verdict) if isinstance(result, str) else (f"{metric} {100 * result[metric]:.1f}", verdict)


def published_scores() -> Iterator[Published]:
    """Yield the published ImageNet scores. Those of the weights that come with the installation are first."""
    for name in PACKAGED:
        scores = {"top1": TOP1[f"{name}.in1k"]}
        readme = "tensorflow/tpu, efficientnet/lite/README.md"
        yield Published(name, "in1k", None, "ImageNet", "val", 224, scores, None, None, "packaged", readme)
    yield from (row for row in table() if row.dataset == "ImageNet")


def classifier(row: Published, config: ClaimsConfig) -> ClaimRow:
    """Check a published top-1 on ImageNet, or state the command that does it."""
    is_google = row.network.startswith("efficientnet_")  # published for TensorFlow, in timm as tf_efficientnet_*
    name = f"tf_{row.network}" if is_google else row.network
    tags = published_tags(name)
    tag = row.tag or (tags[0] if tags else None)
    figures = ", ".join(f"{metric} {100 * value:.4g}" for metric, value in row.scores.items())
    claim = f"{row.network}: {figures} ({row.training}, {row.image_size} px)"
    if tag is None:
        return ClaimRow(claim, row.source, "no weights are published", "not scored", "not checked")
    network = f"{name}.{tag}"
    arguments = ["--backbone", network, "--data.root", config.imagenet or "IMAGENET"]
    command = f"python -m classification.eval {' '.join(arguments)}"
    if row.tag is None:
        command += " (the published weights are not available; these have another recipe)"
    if config.imagenet is None:
        return ClaimRow(claim, row.source, command, "not scored: no ImageNet given", "not checked")
    result = _evaluate("classification", arguments, Path(config.output) / "imagenet" / network)
    if isinstance(result, str):
        return ClaimRow(claim, row.source, command, result, "not checked")
    difference = 100 * (result["top1"] - row.scores["top1"])
    verdict = "reproduced" if abs(difference) <= POINTS else f"{difference:+.1f} points away"
    measured = f"top1 {100 * result['top1']:.2f}, top5 {100 * result['top5']:.2f}"
    return ClaimRow(claim, row.source, command, measured, verdict if row.tag else f"{verdict}, by another recipe")


def _evaluate(task: str, arguments: list[str], output: Path) -> dict[str, float] | str:
    """Run the ordinary `eval`, unless its metrics are in `output` already.

    Returns the metrics, or the reason why there are none. Raises UserError if stored metrics cannot be read.
    """
    file = output / "metrics.json"
    if not file.exists():
        command = [sys.executable, "-m", f"{task}.eval", *arguments, "--output", str(output)]
        process = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        if process.returncode:
            lines = [line for line in process.stderr.splitlines() if line.strip()]
            first = next((i for i, line in enumerate(lines) if line.startswith("error:")), -3)
            return " ".join(lines[first:][:3]) or f"exit code {process.returncode}"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): delete {output} to score it again") from error
