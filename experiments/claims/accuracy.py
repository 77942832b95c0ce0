"""Claims of accuracy: scored by the ordinary `eval` where the data are given, else with the command that does it."""

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
from experiments.claims.row import Row

POINTS = 0.5  # by which a reproduced accuracy may differ: resizing in PyTorch is not TensorFlow's
PACKAGED = tuple(f"tf_efficientnet_lite{phi}" for phi in range(3))


def detector(config: ClaimsConfig) -> Row:
    """COCO AP of a detector, where one is given."""
    return Row(
        "The same, scored here",
        "EfficientDet, arXiv:1911.09070v7, table 2: D7 53.4 on val, D0 34.3",
        f"python -m detection.eval --checkpoint {config.detector or 'FILE'} --data.root {config.coco or 'COCO'}",
        *_scored("detection", "AP", config.detector, config.coco, config),
    )


def segmenter(config: ClaimsConfig) -> Row:
    """ADE20K mIoU, where a run is given."""
    return Row(
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
    found = _evaluate(task, ["--checkpoint", model, "--data.root", data], Path(config.output) / task)
    return (found, verdict) if isinstance(found, str) else (f"{metric} {100 * found[metric]:.1f}", verdict)


def published_scores() -> Iterator[Published]:
    """The published ImageNet scores whose weights exist, those that come with the installation first."""
    for name in PACKAGED:
        scores = {"top1": TOP1[f"{name}.in1k"]}
        readme = "tensorflow/tpu, efficientnet/lite/README.md"
        yield Published(name, "in1k", None, "ImageNet", "val", 224, scores, None, None, "packaged", readme)
    yield from (row for row in table() if row.dataset == "ImageNet")


def classifier(row: Published, config: ClaimsConfig) -> Row:
    """A published top-1: scored on ImageNet, or the command that does it."""
    tensorflow = row.network.startswith("efficientnet_")
    name = f"tf_{row.network}" if tensorflow else row.network
    tags = published_tags(name)
    tag = row.tag or (tags[0] if tags else None)
    figures = ", ".join(f"{metric} {100 * value:.4g}" for metric, value in row.scores.items())
    claim = f"{row.network}: {figures} ({row.training}, {row.image_size} px)"
    if tag is None:
        return Row(claim, row.source, "no weights are published", "not scored", "not checked")
    network = f"{name}.{tag}"
    arguments = ["--backbone", network, "--data.root", config.imagenet or "IMAGENET"]
    command = f"python -m classification.eval {' '.join(arguments)}"
    if row.tag is None:
        command += " (the published weights are not available; these have another recipe)"
    if config.imagenet is None:
        return Row(claim, row.source, command, "not scored: no ImageNet given", "not checked")
    found = _evaluate("classification", arguments, Path(config.output) / "imagenet" / network)
    if isinstance(found, str):
        return Row(claim, row.source, command, found, "not checked")
    away = 100 * (found["top1"] - row.scores["top1"])
    verdict = "reproduced" if abs(away) <= POINTS else f"{away:+.1f} points away"
    told = f"top1 {100 * found['top1']:.2f}, top5 {100 * found['top5']:.2f}"
    return Row(claim, row.source, command, told, verdict if row.tag else f"{verdict}, by another recipe")


def _evaluate(task: str, arguments: list[str], output: Path) -> dict[str, float] | str:
    """The metrics of an ordinary `eval`, run now or kept from an earlier time; or why there are none."""
    file = output / "metrics.json"
    if not file.exists():
        command = [sys.executable, "-m", f"{task}.eval", *arguments, "--output", str(output)]
        done = subprocess.run(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.strip()]
            return " ".join(said[-3:]) or f"exit code {done.returncode}"
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): delete {output}, and it is scored again") from error
