"""The joint task: trains and evaluates a joint network by the tasks of its heads."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from data.batch import Batch
from data.loader import eval_loader, train_loader
from engine import distributed
from engine.checkpoint import RunInfo
from engine.task import Task
from experiments.joint.balance import Balance
from experiments.joint.batches import EvalLoader, HeadBatch, HeadSets, JointBatch, JointLoader
from experiments.joint.build import describe, new_network, stored_network, stored_tasks
from experiments.joint.config import METRIC, NAME, SHARED_PARTS, JointTrainConfig, pairs
from experiments.joint.conflict import ConflictLog
from experiments.joint.distillation import Teacher
from experiments.joint.groups import GroupBatch, GroupSource, check_group, group_heads, leader, without_labels
from experiments.joint.network import JointNetwork, head_outputs
from experiments.joint.prediction import OnePass
from experiments.joint.rates import joint_groups
from experiments.joint.records import train_size, write_head_records, write_heads, write_training_cost
from experiments.joint.start import load_parts
from experiments.tasks import TASKS


class JointTask(OnePass):
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
        self.teachers: dict[str, Teacher] = {}  # no modules of this task, so that checkpoints do not have them
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
        model = new_network(config, {name: train for name, (train, _) in read.items()})
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
        task = cls(model, config, describe(config, tasks, groups), tasks, groups)
        load_parts(task)
        for name, place in pairs(config.distill, "distill", kinds).items():
            task.teachers[name] = Teacher(name, place, tasks[name])
        return task, *task.datasets(*({name: pair[i] for name, pair in read.items()} for i in (0, 1)))

    @classmethod
    def from_run(cls, info: RunInfo, state: dict[str, Tensor] | None, config: Any, model: Any = None) -> JointTask:
        """The task of a finished run."""
        stored = JointTrainConfig.of(info.config)
        infos = {name: RunInfo(**values) for name, values in info.extra["heads"].items()}
        model = stored_network(stored, infos, info.extra["phi"])
        task = cls(model, stored, info, stored_tasks(infos, model), info.extra["groups"])
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
            if names[0] not in self.teachers:
                return {names[0]: task.losses_at_once(images, batch)}
            with self._single_value_norms.in_evaluation_mode(images):
                outputs = task.model(images)
            size = images.shape[-2], images.shape[-1]
            return {names[0]: task.losses_of(outputs, size, batch) | self._distilled(names[0], outputs, batch)}
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
        outputs = head_outputs(task.model, pyramid, size)  # type: ignore[arg-type]
        losses = task.losses_of(outputs, size, batch) | self._distilled(name, outputs, batch)
        if distributed.world() > 1 and kind == "classification" and name in self._partial:
            count = torch.tensor(0.0 if nothing else float(len(batch)), device=batch.labels.device)
            # The loss is a mean over images, and DDP averages processes with different numbers of labelled ones.
            share = count * distributed.world() / distributed.total(count).clamp(min=1)
            return {key: value * share for key, value in losses.items()}
        return {key: value * 0.0 for key, value in losses.items()} if nothing else losses

    def _distilled(self, name: str, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """The loss `distillation` of a head that learns the outputs of a run."""
        if name not in self.teachers:
            return {}
        return {"distillation": self.config.distill_weight * self.teachers[name].loss(outputs, batch)}

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
        """Parameters with their learning rate and weight decay, see `joint_groups`, and those of learned weights."""
        heads = {name: task.config for name, task in self.tasks.items()}
        pretrained = self.info.provenance["source"] != "random"
        groups, rate = joint_groups(self.model, self.config, heads, pretrained)
        learned = list(self.balance_of_heads.parameters())
        return [*groups, *([{"params": learned, "lr": rate, "weight_decay": 0.0}] if learned else [])]

    # --- evaluation

    def begin_scoring(self, with_errors: bool) -> None:
        """Discard the predictions of all heads."""
        for name in self.tasks:
            self.head(name).begin_scoring(with_errors)

    def score(self, batch: HeadBatch) -> None:  # type: ignore[override]
        """Predict a batch of one head and pass the predictions to its evaluator."""
        task = self.head(batch.name)
        self.model.use_norms_of(batch.name)
        task.score(batch.batch)

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

    def per_class(self) -> dict[str, float]:
        """Nothing: each head has classes of its own."""
        return {}

    def class_table(self) -> dict[str, dict[str, float]]:
        """Nothing, see `per_class`."""
        return {}

    def write_results(self, folder: Path) -> None:
        """Write the results of each head to `heads/NAME`, see `experiments.joint.records`."""
        write_heads(self, folder)
        if self.images_per_epoch:
            write_training_cost(self, folder)

    def write_record(self, folder: Path, record: dict[str, Any]) -> None:
        """Write `record.json`, and before it that of each head."""
        write_head_records(self, folder, record)
        super().write_record(folder, record)
