"""Scores of networks prepared for inference and of plain ones, for a detector and a segmenter on the drawn scenes."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

from backbones import prepare_for_inference
from data.loader import eval_loader
from engine.checkpoint import read_run
from experiments.tasks import task_spec

RUNS = {"detection": ("AP", 4), "segmentation": ("mIoU", 2)}  # metric, and epochs of training


def table() -> list[str]:
    """Lines of a table in Markdown."""
    lines = ["| task | plain, fp32 | prepared, fp32 | prepared, bf16 |", "|---|---|---|---|"]
    for task, (metric, epochs) in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder, "run")
            import_module(f"{task}.train").main(["--epochs", str(epochs), "--output", str(run)])
            plain, fp32, bf16 = (100 * score(task, run, precision)[metric] for precision in (None, "fp32", "bf16"))
        faster = (f"{score:.2f} ({score - plain:+.2f})" for score in (fp32, bf16))
        lines.append(f"| {task}, {metric} | {plain:.2f} | {' | '.join(faster)} |")
        print(lines[-1], flush=True)
    return lines


def score(task_name: str, run: Path, precision: str | None) -> dict[str, float]:
    """Scores on the validation scenes; `precision` None leaves the network as it was trained."""
    spec = task_spec(task_name)
    info, state = read_run(run)
    task = spec.load_task().from_run(info, state, spec.eval_config())
    if precision:
        task.model = prepare_for_inference(task.model, precision)
    data = task.eval_dataset(spec.load_demo(), spec.eval_config().data)
    return task.evaluate(eval_loader(data, 8), precision or "fp32")
