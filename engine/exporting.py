"""The `export` command of all tasks."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from rich.table import Table
from torch import Tensor

from backbones.errors import BadInput, UserError
from engine.checkpoint import find_checkpoint, make_folder
from engine.console import err, log_to_terminal, out
from engine.execution import execution_for
from engine.export import check
from engine.export.build import describe
from engine.export.config import ExportConfig
from engine.export.graphs import Graphs
from engine.export.quantise import quantised
from engine.export.write import TORCH, described, write_file
from engine.hub import local_checkpoint, model_card, push, save_run
from engine.record import command_line, surroundings, write_json, write_text
from engine.restore import data_root, restore_task
from engine.runtimes.description import Description
from engine.runtimes.files import FILES, Network, exported_file, raise_unless_installed
from engine.spec import TaskSpec
from engine.task import Task

BATCH = 8  # images at once in evaluation


def export(spec: TaskSpec, config: ExportConfig) -> dict[str, Any]:
    """Write the file, check it, and write export.json. Returns what export.json holds.

    Raises BadInput if the file differs from the checkpoint by more than the tolerance; the file is then renamed.
    """
    config.check()
    log_to_terminal(spec.name)
    raise_unless_installed(config.format)
    execution_for("cpu", "fp32", "eval").begin()
    if config.checkpoint is not None and exported_file(config.checkpoint) is not None:
        raise UserError(f"{config.checkpoint} is an exported file already: name the run or its checkpoint")
    folder = new_folder(config.output)
    selected = spec.predict_config(
        checkpoint=config.checkpoint, backbone=config.backbone, image_size=config.image_size, device="cpu"
    )
    task = restore_task(spec, selected)
    postprocess = config.postprocess or config.preprocess
    if postprocess:
        spec.load_graphs().use_exported_results(task)
    dataset = task.eval_dataset(data_root(task, spec, config.data.root), config.data)
    before = check.score(task.eval(), None, dataset, BATCH, _progress("scoring the checkpoint", len(dataset)))
    graphs = spec.load_graphs()(task)
    description = describe(graphs, config.open_dimensions, config.preprocess, postprocess)
    quantise = None
    if config.int8:
        quantise = partial(quantised, graphs, dataset, config.max_drop)
    err.print(f"exporting {task.config.backbone} to {folder / FILES[config.format]}", markup=False)
    make_folder(folder)
    if config.format == "safetensors":
        file = folder / FILES["safetensors"]
        save_run(task.info, graphs.original, file)
        network: Network = _Restored(restore_task(spec, replace(selected, checkpoint=str(file))), description)
    else:
        file, network = write_file(graphs, description, config.format, folder, quantise)
    found = _checked(graphs, network, dataset, before)
    document = {
        "file": file.name,
        "bytes": sum(part.stat().st_size for part in folder.glob(f"{file.stem}.*") if part.suffix != ".json"),
        "format": config.format,
        "int8": config.int8,
        "task": task.name,
        "backbone": task.config.backbone,
        "checkpoint": config.checkpoint,
        **described(description),
        **found,
        **surroundings(torch.device("cpu"), command_line()),
    }
    failure = _failure(document, task.metric, config.int8)
    if failure:
        failed = mark_failed(file)
        document["failure"], document["file"] = failure, failed.name
    write_json(folder / "export.json", document)
    _print(document, task)
    if failure:
        raise BadInput(
            f"{failure}. Do not use the file, kept as {failed}; {folder / 'export.json'} has all differences"
        )
    out.print(f"{file} and export.json in {folder}", markup=False)
    if config.push is not None:
        record = _record_of(config)
        if record is not None:
            write_json(folder / "record.json", record)
        write_text(folder / "README.md", model_card(config.push, task.info, record, document))
        out.print(f"uploaded: --checkpoint {push(folder, config.push, config.private)}", markup=False)
    return document


def mark_failed(file: Path) -> Path:
    """Rename an exported file, and the one with its weights, so that nobody uses it. Returns its new path."""
    parts = [part.rename(f"{part}.failed") for part in (file, file.with_suffix(".bin")) if part.exists()]
    return parts[0]


class _Restored:
    """A task that was read from its file again, see `engine.runtimes.files.Network`."""

    def __init__(self, task: Task, description: Description) -> None:
        self.description = description
        self.name = TORCH
        self._task = task.eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._task.network_outputs(images)


def _record_of(config: ExportConfig) -> dict[str, Any] | None:
    """record.json of the run; None for published weights and for checkpoints outside of a run folder."""
    if config.checkpoint is None:
        return None
    file = find_checkpoint(local_checkpoint(config.checkpoint)).parent
    found = next((folder / "record.json" for folder in (file.parent, file) if (folder / "record.json").is_file()), None)
    return None if found is None else json.loads(found.read_text())


def new_folder(output: str) -> Path:
    """The folder to create. Raises UserError if it holds anything."""
    folder = Path(output)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"`output={folder}` already exists: choose another folder", settings=("output",))
    return folder


def _checked(graphs: Graphs, network: Network, dataset: Any, before: dict[str, float]) -> dict[str, Any]:
    """All comparisons of the exported network with the one in PyTorch."""
    task = graphs.task
    batch = check.some_images(dataset)
    found: dict[str, Any] = {"runtime": network.name, "threads": torch.get_num_threads()}
    if not network.description.postprocess:
        found["outputs_checked"] = check.compare_outputs(graphs, network, batch)
    found["results"] = check.compare_results(graphs, network, dataset)
    after = check.score(task, network, dataset, BATCH, _progress("scoring the exported file", len(dataset)))
    found["images"] = len(dataset)
    found["metrics"] = {"checkpoint": before, "exported": after}
    single = task.normalised(batch)[:1]
    photo = torch.from_numpy(dataset.with_transform(None)[0].image).permute(2, 0, 1)[None]
    taken = photo if network.description.preprocess else single
    calls = {"checkpoint": lambda: task.network_outputs(single), "exported": lambda: network(taken)}
    found["latency_ms"] = check.milliseconds(calls)
    return found


def _failure(document: dict[str, Any], metric: str, int8: bool) -> str | None:
    """Why the file must not be used; None if it equals the checkpoint within the tolerance."""
    if int8:  # judged by its score, which is printed beside the checkpoint's
        return None
    for row in document.get("outputs_checked", []):
        if not row["difference"] <= check.TOLERANCE:
            size = "x".join(map(str, row["size"]))
            return (
                f"outputs differ from those of the checkpoint by {row['difference']:.2g} of the largest value, for "
                f"{row['batch']} images of {size} px; {check.TOLERANCE:g} is allowed"
            )
    before, after = (document["metrics"][name][metric] for name in ("checkpoint", "exported"))
    allowed = check.PHOTO_TOLERANCE if document["preprocess"] else check.SCORE_TOLERANCE
    if abs(before - after) > allowed:
        return f"{metric} of the file is {100 * after:.2f}, that of the checkpoint {100 * before:.2f}"
    return None


def _print(document: dict[str, Any], task: Task) -> None:
    """The scores, speed and differences as a table."""
    table = Table(
        "",
        *task.headline[:3],
        "ms p50",
        "ms p95",
        title=f"{task.name}, {document['images']} images",
        title_justify="left",
    )
    for name in ("checkpoint", "exported"):
        times = document["latency_ms"][name]
        scores = (f"{100 * document['metrics'][name][metric]:.2f}" for metric in task.headline[:3])
        table.add_row(name, *scores, f"{times['p50']:.1f}", f"{times['p95']:.1f}")
    out.print(table)
    lines = [f"{document['runtime']}, {document['threads']} threads, one image; {document['bytes'] / 1e6:.1f} MB"]
    if rows := document.get("outputs_checked"):
        largest = max(row["difference"] for row in rows)
        lines.append(f"largest difference of outputs: {largest:.1g} of the largest value, in {len(rows)} comparisons")
    results = document["results"]
    lines.append(f"{results['different']} of {results['of']} differ: {results['what']}")
    out.print("\n".join(lines), markup=False)


def _progress(what: str, count: int) -> Any:
    """Wraps a loader in a progress bar."""
    return partial(track, description=f"{what} on {count} images", console=err, transient=True)
