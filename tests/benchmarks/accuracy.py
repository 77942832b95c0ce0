"""Scores of the faster paths beside the plain one, on a detector and a segmenter trained on the drawn scenes."""

from __future__ import annotations

import tempfile
from importlib import import_module
from pathlib import Path

from backbones import prepare_for_inference
from data.demo.writer import demo_root
from data.loader import eval_loader
from engine.checkpoint import read_run

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
    kind = getattr(import_module(f"{task_name}.task"), f"{task_name.capitalize()}Task")
    info, state = read_run(run)
    task = kind.from_run(info, state, import_module(f"{task_name}.config").EvalConfig())
    if precision:
        task.model = prepare_for_inference(task.model, precision)
    data = task.for_eval(demo_root(task_name), "val", 0)
    return task.evaluate(eval_loader(data, 8), precision or "fp32")
