"""The `export` command of joint networks."""

from __future__ import annotations

from typing import Any

import torch

from backbones.errors import BadInput, UserError
from engine.checkpoint import make_folder
from engine.console import err, log_to_terminal, out
from engine.execution import execution_for
from engine.export import check
from engine.export.build import describe
from engine.export.config import ExportConfig
from engine.export.write import described, write_file
from engine.exporting import mark_failed, new_folder
from engine.record import command_line, surroundings, write_json
from engine.restore import restore_task
from engine.runtimes.files import raise_unless_installed
from engine.spec import CommandSpec
from experiments.joint.evaluation import head_dataset
from experiments.joint.graphs import JointGraphs


def export(spec: CommandSpec, config: ExportConfig) -> dict[str, Any]:
    """Write one file with all heads, compare it with the checkpoint on validation images, and write export.json.

    Returns what export.json holds. Raises BadInput if outputs differ by more than the tolerance; the file is then
    renamed. Raises UserError for settings that several heads do not have.
    """
    config.check()
    log_to_terminal(spec.name)
    if config.int8 or config.push is not None or config.format == "safetensors":
        raise UserError("`int8`, `push` and `format='safetensors'` are not available for several heads")
    if config.preprocess or config.postprocess:
        JointGraphs.use_exported_results(None)
    raise_unless_installed(config.format)
    execution_for("cpu", "fp32", "eval").begin()
    folder = new_folder(config.output)
    selected = spec.predict_config(checkpoint=config.checkpoint, image_size=config.image_size, device="cpu")
    task: Any = restore_task(spec, selected)
    dataset = head_dataset(task, next(iter(task.tasks)), config.data).with_transform(task.transform())
    graphs = JointGraphs(task)
    description = describe(graphs, config.dynamic or "batch", preprocess=False, postprocess=False)
    err.print(f"exporting {task.config.backbone} to {folder}", markup=False)
    make_folder(folder)
    file, network = write_file(graphs, description, config.format, folder)
    batch = check.some_images(dataset)
    rows = check.compare_outputs(graphs, network, batch)
    results = check.compare_results(graphs, network, dataset)
    single = task.normalised(batch)[:1]
    times = check.milliseconds(
        {"checkpoint": lambda: task.network_outputs(single), "exported": lambda: network(single)}
    )
    largest = max(row["difference"] for row in rows)
    failed = not largest <= check.TOLERANCE
    document = {
        "file": mark_failed(file).name if failed else file.name,
        "format": config.format,
        "task": task.name,
        "backbone": task.config.backbone,
        "checkpoint": config.checkpoint,
        **described(description),
        "runtime": network.name,
        "outputs_checked": rows,
        "results": results,
        "latency_ms": times,
        **surroundings(torch.device("cpu"), command_line()),
    }
    write_json(folder / "export.json", document)
    if failed:
        raise BadInput(
            f"outputs differ from those of the checkpoint by {largest:.2g} of the largest value; {check.TOLERANCE:g} "
            f"is allowed. Do not use the file, kept as {document['file']}"
        )
    out.print(
        f"{file} and export.json in {folder}\nlargest difference of outputs: {largest:.1g} of the largest value; "
        f"{results['different']} of {results['of']} differ: {results['what']}\none image: checkpoint "
        f"{times['checkpoint']['p50']:.1f} ms, exported {times['exported']['p50']:.1f} ms",
        markup=False,
    )
    return document
