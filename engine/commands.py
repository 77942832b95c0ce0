"""What `train`, `eval` and `predict` do, whatever the task."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import yaml
from PIL import Image
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track
from rich.table import Table

from backbones.errors import BadInput, UserError
from data.batch import Sample, collate
from data.images import read_image
from data.loader import Source, eval_loader, train_loader
from data.reader import LabelledDataset
from engine.cached_features import cached_features
from engine.checkpoint import find_checkpoint, is_run, latest_run, new_run_folder, read_run
from engine.config import EvalConfig, PredictConfig, ScoreConfig, TrainConfig, parse_size
from engine.execution import execution_for
from engine.leaderboard import print_leaderboard, read_records
from engine.plots import curves
from engine.predictor import Predictor
from engine.record import write_json
from engine.spec import TaskSpec
from engine.task import Task
from engine.trainer import device_of, fit, seed_everything

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
PICTURES = 8  # validation images drawn after training
CLASSES_SHOWN = 25
AHEAD = 4  # images that `predict` reads before their turn, and pictures that may wait to be written

T = TypeVar("T")

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def train(spec: TaskSpec, config: TrainConfig) -> dict[str, Any]:
    """Train a new run, or continue one; returns the record."""
    _log_to_terminal(spec.name)
    config = _stored(config) if config.resume else config
    config.check()
    if isinstance(config.pretrained, str) and Path(config.pretrained).is_dir():
        config = replace(config, pretrained=str(find_checkpoint(config.pretrained)))
    device = device_of(config.device)
    setting = execution_for(device.type, config.precision, "train")
    setting.begin()
    root = spec.data_root(config)
    seed_everything(config.seed)
    task, train_set, val_set = spec.load_task().prepare(replace(config, resume=None), root)
    output = Path(config.resume) if config.resume else new_run_folder(spec.name, config.backbone, config.output)
    weights = task.info.provenance
    err.print(
        f"{spec.name}: {config.backbone}, weights {weights['source']}; {len(train_set)} training and "
        f"{len(val_set)} validation images of {root}; {config.epochs} epochs on {device} ({setting}) -> {output}"
    )
    command = f"python -m {spec.name}.train --resume {output}"
    seen: tuple[Source, Source] = (train_set, val_set)
    started = time.perf_counter()
    if config.data.cached_augmentations:
        seen = cached_features(task.to(device), train_set, val_set, err)
    record = fit(
        task,
        train_loader(seen[0], config.batch_size, config.seed, config.data.workers),
        eval_loader(seen[1], config.batch_size, config.data.workers),
        output,
        resume=bool(config.resume),
        if_interrupted=f"stopped; go on with: {command}",
        feature_seconds=time.perf_counter() - started if config.data.cached_augmentations else 0.0,
    )
    task.to(device).eval()
    task.write_results(output)
    pictures = output / "pictures"
    pictures.mkdir(exist_ok=True)
    for name, index in task.pictured(val_set, PICTURES).items():
        _picture(task, val_set, index, device).save(pictures / f"{name}.jpg", quality=90)
    curves(output / "metrics.csv", task.monitor, pictures / "curves.png")
    _print_scores(task, record["metrics"])
    best = record["best"]
    after = f" after {record['feature_seconds']:.0f} s for features" if config.data.cached_augmentations else ""
    out.print(
        f"best {task.monitor} {100 * best[task.monitor]:.1f} after epoch {best['epoch']} of {config.epochs}; "
        f"trained in {record['train_seconds']:.0f} s{after}; {record['params'] / 1e6:.2f} M parameters, "
        f"{record['macs'] / 1e9:.2f} G multiply-adds, {record['latency_ms']:.0f} ms an image\n"
        f"run {output}, pictures in {pictures}"
    )
    print_leaderboard(out, record, spec, task.info.classes, output)
    return record


def evaluate(spec: TaskSpec, config: EvalConfig) -> dict[str, float]:
    """Score a run or a published checkpoint; returns the metrics."""
    _log_to_terminal(spec.name)
    device = device_of(config.device)
    setting = execution_for(device.type, config.precision, "eval")
    setting.begin()
    task = _load(spec, config)
    root = _data_root(task, spec, config.data.root)
    dataset = task.eval_dataset(root, config.data.split, config.data.skip_bad)
    setting.place(task.to(device).eval().model)
    loader = eval_loader(dataset, config.batch_size, config.data.workers)
    tracked = track(loader, f"scoring {len(dataset)} images", console=err, transient=True)
    metrics = task.evaluate(tracked, config.precision)
    out.print(f"{root}, split {config.data.split}, {len(dataset)} images; on {device} ({setting})")
    _print_scores(task, metrics)
    _print_leaderboard(task, spec, config, dataset, metrics)
    if config.output:
        folder = _make(config.output)
        write_json(folder / "metrics.json", metrics)
        task.write_results(folder)
        out.print(f"metrics.json and per-image results in {folder}")
    return metrics


def predict(spec: TaskSpec, config: PredictConfig) -> None:
    """Predict a file or a folder of images; writes a picture of each and the task's result file."""
    _log_to_terminal(spec.name)
    device = device_of(config.device)
    execution_for(device.type, config.precision, "predict")  # refuses a precision that the device has not, at once
    files = image_files(config.images)
    task = _load(spec, config)
    folder = _make(config.output)
    if folder.resolve() in {file.parent.resolve() for file in files}:
        raise UserError(f"--output {folder} is where the images are, and would be written over: name another folder")
    predictor = Predictor(task, device, config.precision)

    def read(number: int) -> tuple[np.ndarray, Sample]:
        image = read_image(files[number])
        return image, predictor.prepare(image, number)

    def write(found: Any, image: np.ndarray, name: str) -> None:
        if config.pictures:
            Image.fromarray(task.picture(image, found, config=config)).save(folder / f"{name}.jpg", quality=92)
        task.save(found, folder / name)

    records: list[dict[str, Any]] = []
    # Files are read and pictures written beside the network's work: decoders let go of Python's lock.
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        numbers = track(range(len(files)), f"predicting {len(files)} images", console=err, transient=True)
        written: deque[Future[None]] = deque()
        for number, (image, sample) in zip(numbers, _ahead(reader, read, len(files)), strict=True):
            found = predictor(sample)
            records += [{"file": files[number].name, **record} for record in task.records(found, number)]
            written.append(writer.submit(write, found, image, files[number].stem))
            if len(written) > AHEAD:
                written.popleft().result()
        for last in written:
            last.result()
    write_json(folder / "predictions.json", records)
    written_too = f"{len(files)} pictures and " if config.pictures else ""
    out.print(f"{written_too}predictions.json in {folder}; on {device} ({predictor.execution})")


def _ahead(pool: ThreadPoolExecutor, work: Callable[[int], T], count: int) -> Iterator[T]:
    """`work(0)`, `work(1)`, ... in order, a few of them done ahead of time."""
    waiting: deque[Future[T]] = deque(pool.submit(work, number) for number in range(min(AHEAD, count)))
    for number in range(AHEAD, count + AHEAD):
        result = waiting.popleft().result()
        if number < count:
            waiting.append(pool.submit(work, number))
        yield result
        if not waiting:
            return


def image_files(path: str) -> list[Path]:
    """The image at `path`, or the images of that folder by name. Raises UserError or BadInput where there is none."""
    if not path:
        raise UserError("--images FILE_OR_FOLDER is needed")
    place = Path(path)
    if place.is_file():
        return [place]
    found = sorted(p for p in place.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if place.is_dir() else []
    if not found:
        what = "has no images" if place.is_dir() else "does not exist"
        raise BadInput(f"--images {path} {what}: an image, or a folder of {', '.join(sorted(IMAGE_SUFFIXES))} files")
    return found


def _load(spec: TaskSpec, config: ScoreConfig) -> Task:
    """The task that `--checkpoint` or `--backbone` names, or the latest run's, at the asked input size."""
    task_class = spec.load_task()
    if config.checkpoint is None and config.backbone is not None:
        task = task_class.of_backbone(config.backbone, config)
    else:
        place = config.checkpoint or str(latest_run(spec.name))
        if config.checkpoint is None:
            err.print(f"using the latest run, {place}")
        file = find_checkpoint(place)
        if is_run(file):
            info, state = read_run(file)
            if info.task != spec.name:
                raise BadInput(f"{file} is a {info.task} run: use `python -m {info.task}.eval` or `.predict`")
            task = task_class.restore(info, state, config)
        else:
            task = task_class.published(file, config)
    if config.image_size is not None:
        task.info.preprocessing["size"] = list(parse_size(config.image_size))
    return task


def _print_leaderboard(
    task: Task, spec: TaskSpec, config: EvalConfig, dataset: LabelledDataset, metrics: dict[str, float]
) -> None:
    """Beside other runs where a run was scored on its own validation split; else beside published figures alone."""
    folder = None if config.backbone and not config.checkpoint else _run_folder(task, config)
    record = next(iter(read_records([folder / "record.json"], spec.train_config)), None) if folder is not None else None
    if record is None or record["dataset"]["fingerprint"]["val"] != dataset.fingerprint:
        record, folder = {"task": task.name, "backbone": task.config.backbone}, None
    print_leaderboard(out, record | {"metrics": metrics}, spec, dataset.classes, folder)


def _run_folder(task: Task, config: EvalConfig) -> Path:
    """The folder of the run that is scored."""
    return find_checkpoint(config.checkpoint or latest_run(task.name)).parent.parent


def _data_root(task: Task, spec: TaskSpec, asked: str | None) -> Path:
    """The data to score on: as asked, or what the run was trained on."""
    if asked:
        return Path(asked)
    trained_on = task.info.config.get("data", {}).get("root")
    if trained_on is None and task.info.dataset.get("published"):
        raise UserError("--data.root FOLDER is needed to score a published checkpoint")
    return Path(trained_on) if trained_on else spec.load_demo()


def _stored(config: TrainConfig) -> TrainConfig:
    """The settings of the run to resume. Raises UserError for a flag that contradicts them."""
    folder = Path(str(config.resume))
    file = folder / "config.yaml"
    if not file.is_file():
        raise BadInput(f"--resume {folder} is not a run folder: it has no config.yaml")
    if (folder / "record.json").is_file():
        raise UserError(f"--resume {folder}: that run is complete, its scores are in record.json")
    try:
        config_then = type(config).of(yaml.safe_load(file.read_text()))  # with what older versions did not know
    except (TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
        raise BadInput(f"{file} does not hold settings of a run as this version knows them ({error})") from error
    stored = yaml.safe_load(yaml.safe_dump(asdict(config_then)))
    asked = yaml.safe_load(yaml.safe_dump(asdict(config)))  # as it would be stored
    for name in asked.keys() - {"resume", "output", "logger"}:
        if asked[name] != stored[name]:
            raise UserError(
                f"--resume continues {folder} with its own settings: --{name} {asked[name]} contradicts its "
                f"{stored[name]}. Leave the flag out, or start a new run."
            )
    return config


def _picture(task: Task, dataset: LabelledDataset, index: int, device: torch.device) -> Image.Image:
    """Ground truth and prediction of one image, side by side."""
    sample = dataset.with_transform(None)[index]
    batch = collate([dataset[index]]).to(device)
    with torch.inference_mode():
        found = task.predictions(task.normalised(batch), batch)
    return Image.fromarray(task.picture(sample.image, found, truth=sample))


def _print_scores(task: Task, metrics: dict[str, float]) -> None:
    table = Table(*task.headline, title=f"{task.name}, percent", title_justify="left")
    table.add_row(*(_percent(metrics[name]) for name in task.headline))
    out.print(table)
    per_class = task.per_class()
    if 1 < len(per_class) <= CLASSES_SHOWN:
        table = Table("class", task.monitor)
        for name, value in sorted(per_class.items(), key=lambda item: -item[1] if item[1] == item[1] else 1):
            table.add_row(name.replace("[", r"\["), _percent(value))
        out.print(table)


def _percent(value: float | None) -> str:
    return "--" if value is None or value != value else f"{100 * value:.1f}"


def _make(folder: str) -> Path:
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"cannot make the folder {path}: {error.strerror}") from error
    return path


def _log_to_terminal(task: str) -> None:
    """Warnings of our own packages, such as dropped layers and skipped images, go to the terminal."""
    handler = RichHandler(console=err, show_time=False, show_path=False, show_level=False)
    for package in ("backbones", "data", "engine", task, "experiments"):
        logger = logging.getLogger(package)
        logger.handlers, logger.level, logger.propagate = [handler], logging.WARNING, False
