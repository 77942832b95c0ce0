"""The joint task: trains and evaluates a joint network by the tasks of its heads."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.weight_files import weight_file
from data.batch import Batch, Sample, collate
from data.letterbox import Letterbox
from data.loader import eval_loader, train_loader
from data.scan import evenly_spaced
from engine import distributed
from engine.checkpoint import RunInfo
from engine.optimization import by_block, by_depth, parameter_groups
from engine.task import Task
from experiments.joint.balance import Balance
from experiments.joint.batches import EvalLoader, HeadBatch, HeadSets, JointBatch, JointLoader
from experiments.joint.config import METRIC, NAME, SHARED_PARTS, JointTrainConfig, pairs
from experiments.joint.conflict import ConflictLog
from experiments.joint.groups import GroupBatch, GroupSource, check_group, group_heads, leader, without_labels
from experiments.joint.network import MULTIPLE, JointNetwork, create_joint, head_outputs
from experiments.joint.records import train_size
from experiments.tasks import TASKS
from segmentation.model import Segmenter


class JointTask(Task):
    """Trains a joint network. Losses, predictions, scores, results and pictures are those of the tasks of its heads.

    Args:
        model: the network.
        config: settings of the run.
        info: description of the run.
        tasks: the task of each head, whose model is the head's network.
        groups: names of the heads of each group, see `experiments.joint.groups`.
    """

    name: ClassVar[str] = NAME
    metric: ClassVar[str] = METRIC
    config: JointTrainConfig
    model: JointNetwork

    def __init__(
        self,
        model: JointNetwork,
        config: JointTrainConfig,
        info: RunInfo,
        tasks: Mapping[str, Task],
        groups: list[list[str]],
    ) -> None:
        super().__init__(model, config, info)
        self.tasks = dict(tasks)  # no modules of this one: their model would have a second name
        self.groups = groups
        self.images_per_epoch: list[int] = []  # of each group, in training
        self.criterion = nn.ModuleDict({name: task.criterion for name, task in tasks.items()})
        self.balance_of_heads = Balance(config.balance, config.weights)
        if config.norms == "per_dataset":
            model.use_own_norms(groups)
        self.conflicts = ConflictLog(list(tasks), info.extra.setdefault("gradients", []))
        scores = [f"{name}.{task.metric}" for name, task in tasks.items()]
        self.headline = (METRIC, *scores)  # type: ignore[misc]

    # --- building

    @classmethod
    def prepare(cls, config: Any, root: Path) -> tuple[JointTask, Any, Any]:
        """The task of a new run, and the training and validation images of each head, as `HeadSets`.

        `root` is not used: each head has its own data.
        """
        kinds, configs = config.kinds, {name: config.head_config(name) for name in config.kinds}
        classes: dict[str, Any] = {name: TASKS[kind].load_task() for name, kind in kinds.items()}
        roots = {name: TASKS[kind].data_root(configs[name]) for name, kind in kinds.items()}
        read = {name: classes[name].read(configs[name], roots[name]) for name in kinds}
        model = cls._new_model(config, {name: len(train.classes) for name, (train, _) in read.items()}, read)
        tasks: dict[str, Task] = {}
        for name in kinds:
            train, val = read[name]
            tasks[name] = classes[name].build(configs[name], roots[name], train, val, model.networks[name])
            tasks[name].balance(train)
        groups = group_heads({name: train for name, (train, _) in read.items()}, kinds, config.together)
        for group in groups:
            first = tasks[leader(group, kinds)].info
            size = train_size(first)
            check_group(group, configs, size)
            for name in group:
                if len(group) > 1:
                    tasks[name].info.preprocessing["size"] = list(size)
        task = cls(model, config, cls._describe(config, tasks, groups), tasks, groups)
        from experiments.joint.start import load_parts

        load_parts(task)
        return task, *task.datasets(*({name: pair[i] for name, pair in read.items()} for i in (0, 1)))

    @classmethod
    def _new_model(cls, config: JointTrainConfig, classes: Mapping[str, int], read: Mapping[str, Any]) -> JointNetwork:
        kinds = config.kinds
        runs = pairs(config.init, "init", kinds)
        scales, first = {}, None
        for name, kind in kinds.items():
            if kind == "detection":
                first = config.head_config(name)
                if name in runs:
                    first.pretrained = str(weight_file(runs[name]))  # its heads know these anchors
                scales[name] = TASKS[kind].load_task().anchor_scale_of(first, read[name][0])  # type: ignore[attr-defined]
        return create_joint(
            config.backbone,
            {name: (kind, classes[name]) for name, kind in kinds.items()},
            config.phi or 0,
            False if config.protocol == "scratch" else config.pretrained,
            anchor_scales=scales,
            finest=config.finest,
            stochastic_depth=config.stochastic_depth,
            **({"nms": first.nms, "max_detections": first.max_detections} if first else {}),
        )

    @staticmethod
    def _describe(config: JointTrainConfig, tasks: Mapping[str, Task], groups: list[list[str]]) -> RunInfo:
        infos = {name: task.info for name, task in tasks.items()}
        first = infos[leader(groups[0], config.kinds)]
        values = first.preprocessing
        return RunInfo(
            task=NAME,
            dataset={"root": ", ".join(dict.fromkeys(info.dataset["root"] for info in infos.values()))},
            config=asdict(config),
            classes=[],
            preprocessing={"mean": values["mean"], "std": values["std"], "size": list(values["size"])},
            provenance=first.provenance,
            extra={
                "neck": "bifpn",
                "phi": str(config.phi),
                "heads": {name: vars(info) for name, info in infos.items()},
                "groups": groups,
            },
        )

    @classmethod
    def from_run(cls, info: RunInfo, state: dict[str, Tensor] | None, config: Any, model: Any = None) -> JointTask:
        """The task of a finished run."""
        stored = JointTrainConfig.of(info.config)
        infos = {name: RunInfo(**values) for name, values in info.extra["heads"].items()}
        kinds = stored.kinds
        scales = {name: head.extra["anchor_scale"] for name, head in infos.items() if kinds[name] == "detection"}
        limits = [stored.head_config(name) for name in scales]
        model = create_joint(
            stored.backbone,
            {name: (kind, len(infos[name].classes)) for name, kind in kinds.items()},
            info.extra["phi"],
            anchor_scales=scales,
            finest=stored.finest,
            **({"nms": limits[0].nms, "max_detections": limits[0].max_detections} if limits else {}),
        )
        tasks: dict[str, Task] = {
            name: TASKS[kind].load_task().from_run(infos[name], None, _neutral(kind, config), model.networks[name])
            for name, kind in kinds.items()
        }
        task = cls(model, stored, info, tasks, info.extra["groups"])
        if state is not None:
            model.load_state_dict(state)
        return task

    def datasets(self, train: Any, val: Any) -> tuple[Any, Any]:
        """Training and validation images of each head, with transforms; those of a group become one source."""
        sources: dict[str, Any] = {}
        scored = {}
        for name, task in self.tasks.items():
            sources[name], scored[name] = task.datasets(train[name], val[name])
        kinds = self.config.kinds
        merged: dict[str, Any] = {}
        for group in self.groups:
            if len(group) == 1:
                merged[group[0]] = sources[group[0]]
                continue
            transform = sources[leader(group, kinds)].transform
            of_group = {name: train[name] for name in group}
            merged[group[0]] = GroupSource(of_group, {name: kinds[name] for name in group}, transform)
        photographs = sum(len(source) for source in merged.values())
        return HeadSets(merged, photographs), HeadSets(scored, sum(len(data) for data in scored.values()))

    def loaders(self, train: Any, val: Any, workers: int, rank: int, world: int) -> tuple[Any, Any]:
        """Steps with a batch of each group, and the batches of evaluation of all heads."""
        config, kinds = self.config, self.config.kinds
        self._partial = {
            name for source in train.by_head.values() if isinstance(source, GroupSource) for name in source.partial
        }
        loaders = []
        for group in self.groups:
            head = self.tasks[leader(group, kinds)]
            draws = head.expected_draws if len(group) == 1 else None
            size = head.config.batch_size
            source = train.by_head[group[0]]
            loaders.append(train_loader(source, size, config.seed, workers, True, draws, rank, world))
        scored = {
            name: eval_loader(data, self.tasks[name].config.batch_size, workers, rank, world)
            for name, data in val.by_head.items()
        }
        steps = JointLoader(loaders, self.groups, config.seed)
        self.images_per_epoch = [
            len(steps) * self.tasks[leader(group, kinds)].config.batch_size for group in self.groups
        ]
        return steps, EvalLoader(scored)

    def data_changes(self, stored: RunInfo) -> list[str]:
        """What differs between the data of each head and those of a stored run."""
        found = []
        for name, task in self.tasks.items():
            before = RunInfo(**stored.extra["heads"][name])
            found += [f"{name}: {change}" for change in task.data_changes(before)]
        return found

    def take_over(self, stored: RunInfo) -> None:
        """Also the measured gradients, and the origin of each head's initial weights."""
        super().take_over(stored)
        self.conflicts.rows[:] = stored.extra["gradients"]
        for name, task in self.tasks.items():
            task.info.provenance = stored.extra["heads"][name]["provenance"]

    # --- training

    def head(self, name: str) -> Task:
        """The task of a head, with the present network and trainer."""
        task = self.tasks[name]
        task.model, task.trainer = self.model.networks[name], self.trainer
        return task

    def freeze_parts(self) -> None:
        """Freeze what `protocol`, `freeze_stride` and `freeze` do not train, and set training mode."""
        super().freeze_parts()
        for part in self.config.freeze:
            modules = [getattr(self.model, part)] if part in SHARED_PARTS else self.model.own_parts(part).values()
            for module in modules:
                module.requires_grad_(False)
                self._frozen_modules.append(module)
        self.train()

    def final_layer(self) -> list[nn.Module]:
        return [module for name in self.tasks for module in self.head(name).final_layer()]

    def training_step(self, batch: JointBatch, batch_idx: int) -> Tensor:  # type: ignore[override]
        seed = torch.initial_seed()
        terms: dict[str, dict[str, Tensor]] = {}
        for part in batch.parts:
            torch.manual_seed(seed)  # so that a group's random draws do not depend on other groups
            with self.model.trained_on(part.group):
                terms |= self._group_losses(part)
        by_head = {name: torch.stack(list(terms[name].values())).sum() for name in self.tasks}
        self._compare_gradients(by_head, batch_idx)
        loss = self.balance_of_heads(by_head)
        named = {f"{name}.{term}": value for name, losses in terms.items() for term, value in losses.items()}
        self.step_losses.add(loss, named, batch.image_ids, batch_idx % self.config.batches_per_step == 0)
        return loss

    def _group_losses(self, part: GroupBatch) -> dict[str, dict[str, Tensor]]:
        """The losses of the heads of a group by name, from one pass of backbone and neck."""
        names = self.groups[part.group]
        if len(names) == 1:
            task = self.head(names[0])
            images, batch = task.mixed(task.normalised(part.batch), part.batch)
            return {names[0]: task.losses_at_once(images, batch)}
        images = self.head(names[0]).normalised(part.batch)
        size = images.shape[-2], images.shape[-1]
        with self._single_value_norms.in_evaluation_mode(images):
            pyramid = self.model.pyramid(images)
            return {name: self._head_losses(name, part, pyramid, size) for name in names}

    def _head_losses(
        self, name: str, part: GroupBatch, pyramid: list[Tensor], size: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The losses of a head for the images that it has labels for. Without any they are 0, and depend on its output.

        So every process computes the same losses, and every parameter has a gradient.
        """
        task, rows, kind = self.head(name), part.rows[name], self.config.kinds[name]
        batch = part.labelled(name, kind)
        nothing = rows is not None and not len(rows)
        if nothing:
            pyramid, batch = [maps[:1] for maps in pyramid], without_labels(batch, kind)
        elif rows is not None:
            pyramid, batch = [maps[rows] for maps in pyramid], batch[rows]  # type: ignore[index]
        losses = task.losses_of(head_outputs(task.model, pyramid, size), size, batch)  # type: ignore[arg-type]
        factor = 0.0 if nothing else 1.0
        if distributed.world() > 1 and kind == "classification" and name in self._partial:
            count = torch.tensor(0.0 if nothing else float(len(batch)), device=batch.labels.device)
            # The loss is a mean over images, and DDP averages processes with different numbers of labelled ones.
            share = count * distributed.world() / distributed.total(count).clamp(min=1)
            return {key: value * share for key, value in losses.items()}
        return {key: value * factor for key, value in losses.items()} if nothing else losses

    def _compare_gradients(self, by_head: Mapping[str, Tensor], batch_idx: int) -> None:
        """Measure how far the heads' gradients agree, and prepare the correction of "pcgrad"."""
        config, step = self.config, self.global_step
        every = config.conflict_every
        is_due = bool(every) and step % every == 0 and batch_idx % config.batches_per_step == 0
        self.balance_of_heads.correction = []
        shared = self._shared_parameters()
        if len(by_head) < 2 or not shared or not (is_due or config.balance == "pcgrad"):
            return
        gradients = self.balance_of_heads.gradients(by_head, shared)
        if is_due:
            self.conflicts.add(step, self.model, gradients)
        if config.balance == "pcgrad":
            self.balance_of_heads.project(gradients, config.seed, step)

    def _shared_parameters(self) -> list[nn.Parameter]:
        shared = [*self.model.backbone.parameters(), *self.model.neck.parameters()]
        return [p for p in shared if p.requires_grad]

    def configure_gradient_clipping(self, optimizer: Any) -> None:
        """Add the correction of "pcgrad", then clip as in the base class."""
        self.balance_of_heads.correct(self._shared_parameters())
        super().configure_gradient_clipping(optimizer)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters with their learning rate and weight decay.

        A head has the learning rates of its own settings. Those of backbone and neck are the means over the heads,
        weighted by the heads' loss weights.
        """
        config, weights = self.config, self.config.weights
        settings = {name: task.config for name, task in self.tasks.items()}

        def mean(values: Mapping[str, float]) -> float:
            return sum(weights[name] * values[name] for name in weights) / sum(weights.values())

        shared = mean({name: own.lr for name, own in settings.items()})
        factor = mean({name: own.lr * own.backbone_lr for name, own in settings.items()}) / shared
        used = [name for name, weight in weights.items() if weight]
        if len(used) == 1:
            factor = settings[used[0]].backbone_lr  # without the rounding of the quotient
        factor = factor if self.info.provenance["source"] != "random" else 1.0
        rates = {
            id(p): settings[name].lr
            for name in settings
            for part in self.model.own_parts(name).values()
            for p in part.parameters()
        }
        groups = []
        for group in parameter_groups(self.model, shared, factor, config.weight_decay):
            found: dict[float, list[Any]] = {}
            for parameter in group["params"]:
                found.setdefault(rates.get(id(parameter), group["lr"]), []).append(parameter)
            groups += [group | {"params": params, "lr": rate} for rate, params in found.items()]
        if config.first_layer_lr != 1:
            groups = list(by_depth(groups, by_block(self.model.backbone), config.first_layer_lr))
        learned = list(self.balance_of_heads.parameters())
        return [*groups, *([{"params": learned, "lr": shared, "weight_decay": 0.0}] if learned else [])]

    # --- evaluation

    def on_validation_epoch_start(self) -> None:
        for name in self.tasks:
            self.head(name).with_errors = self.current_epoch + 1 == self.config.epochs or self.config.patience > 0
            self.tasks[name].evaluator.reset()

    def score(self, batch: HeadBatch) -> None:  # type: ignore[override]
        """Predict a batch of one head and pass the predictions to its evaluator."""
        task = self.head(batch.name)
        self.model.use_norms_of(batch.name)
        task.score(batch.batch)

    def on_validation_epoch_end(self) -> None:
        self._compute_scores()

    def _compute_scores(self) -> None:
        scores: dict[str, float] = {}
        for name, task in self.tasks.items():
            task._compute_scores()
            scores |= {f"{name}.{metric}": value for metric, value in task.scores.items()}
        self.scores = {METRIC: self._mean_score(scores), **scores}

    def _mean_score(self, scores: Mapping[str, float]) -> float:
        """The mean of the heads' headline metrics, without undefined ones; NaN if all are."""
        values = [scores[f"{name}.{task.metric}"] for name, task in self.tasks.items()]
        defined = [value for value in values if not math.isnan(value)]
        return sum(defined) / len(defined) if defined else math.nan

    @torch.inference_mode()
    def evaluate(self, loader: Iterable[Any], precision: str = "fp32") -> dict[str, float]:
        """Score all batches of an `EvalLoader`. Returns the scores by `NAME.METRIC`, and their mean."""
        from engine.execution import execution_for

        self.eval()
        for task in self.tasks.values():
            task.evaluator.reset()
            task.with_errors = True
        with execution_for(self.device.type, precision, "eval").arithmetic(self.device.type):
            for batch in loader:
                self.score(batch.to(self.device))
        self._compute_scores()
        return self.scores

    def per_class(self) -> dict[str, float]:
        """Nothing: each head has classes of its own."""
        return {}

    def class_table(self) -> dict[str, dict[str, float]]:
        """Nothing, see `per_class`."""
        return {}

    def write_results(self, folder: Path) -> None:
        """Write the results of each head to `heads/NAME`, see `experiments.joint.records`."""
        from experiments.joint.records import write_heads, write_training_cost

        write_heads(self, folder)
        if self.images_per_epoch:
            write_training_cost(self, folder)

    # --- prediction in one pass

    @property
    def outputs(self) -> tuple[str, ...]:  # type: ignore[override]
        """Names of `network_outputs`: HEAD_OUTPUT."""
        return tuple(f"{name}_{output}" for name, task in self.tasks.items() for output in task.outputs)

    def network_outputs(self, images: Tensor) -> tuple[Tensor, ...]:
        """The outputs of all heads, one after the other, as their tasks' `network_outputs`."""
        found: dict[str, tuple[Tensor, ...]] = {}
        for names in self.model.passes():
            pyramid = self.model.pyramid(images)
            for name in names:
                network: Any = self.model.networks[name]
                if isinstance(network, Segmenter):
                    found[name] = (network.coarse_outputs(pyramid),)
                else:
                    outputs = network.outputs(pyramid)
                    found[name] = outputs if isinstance(outputs, tuple) else (outputs,)
        return tuple(output for name in self.tasks for output in found[name])

    def predictions(self, images: Tensor, batch: Batch) -> dict[str, Any]:
        """The predictions of each head by name, in original pixels, from one pass."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % MULTIPLE, 0, -height % MULTIPLE))
        outputs = iter(self.computed(images))
        found = {}
        for name in self.tasks:
            task = self.head(name)
            own = tuple(next(outputs) for _ in task.outputs)
            task.runtime = _Computed(own)  # type: ignore[assignment]
            try:
                found[name] = task.predictions(images, batch)
            finally:
                task.runtime = None
        return found

    def transform(self) -> Letterbox:
        height, width = self.info.preprocessing["size"]
        return Letterbox((height, width), self.fill)

    def result(self, image: np.ndarray, predictions: Any) -> dict[str, Any]:
        """The result object of each head by name."""
        return {name: self.head(name).result(image, predictions[name]) for name in self.tasks}

    def prediction_records(self, predictions: Any, image_id: int) -> list[dict[str, Any]]:
        """The records of all heads, each with the name of its head."""
        return [
            {"head": name} | record
            for name in self.tasks
            for record in self.head(name).prediction_records(predictions[name], image_id)
        ]

    def picture(
        self, image: np.ndarray, predictions: Any, truth: Sample | None = None, config: Any = None
    ) -> np.ndarray:
        """Draw classes, boxes and class map of all heads in one picture."""
        from experiments.joint.pictures import draw

        return draw(image, self, predictions, config)

    def pictures(self, dataset: Any, count: int) -> Iterator[tuple[str, np.ndarray]]:
        """Pictures of evenly spaced validation images of the first head, with the predictions of all heads.

        Then those of each head as its task draws them, with the ground truth: NAME-KEY.
        """
        data = next(iter(dataset.by_head.values()))
        for index in evenly_spaced(len(data), count).tolist():
            plain = data.with_transform(None)[index].image
            empty = Sample(plain, index, plain.shape[:2], (1.0, 1.0), np.zeros((0, 4), np.float32), np.zeros(0, int))
            batch = collate([self.transform()(empty, 0)]).to(self.device)
            with torch.inference_mode():
                predictions = self.predictions(self.normalised(batch), batch)
            yield f"val-{index:05d}", self.picture(plain, predictions)
        for name, data in dataset.by_head.items():
            self.model.use_norms_of(name)
            yield from ((f"{name}-{key}", picture) for key, picture in self.head(name).pictures(data, count // 2))

    def save(self, predictions: Any, path: Path) -> None:
        """Write the further files of each head as `NAME-HEAD`."""
        for name in self.tasks:
            self.head(name).save(predictions[name], path.with_name(f"{path.name}-{name}"))


class _Computed:
    """Outputs that are computed already, in the place of a runtime."""

    class description:
        preprocess = postprocess = False

    def __init__(self, outputs: tuple[Tensor, ...]) -> None:
        self._outputs = outputs

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        return self._outputs


def _neutral(kind: str, config: Any) -> Any:
    """Settings of a task's prediction that change nothing."""
    return TASKS[kind].predict_config()
