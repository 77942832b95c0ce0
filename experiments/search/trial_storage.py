"""Stores the trials of a search in Optuna's journal, which any number of processes share.

Only one process at a time begins a trial. It then locks the trial's file, and its training inherits the lock. A trial
that is marked as running but is not locked was killed. Another trial then continues it with the same network, and the
two count once.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from filelock import FileLock
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from backbones.errors import BadInput
from data.lock import LocksMissing, lock_file
from experiments.search.config import SearchConfig
from experiments.search.space import Space, Value

JOURNAL = "journal.log"
UNPRUNED = 5  # trials before the first one is pruned: the median needs some
UNPRUNED_SHARE = 1 / 3  # first part of the epochs, in which scores are not informative yet
MOST_REPEATS = 20  # repeats in a row, after which networks are sampled at random
REPEATS, REPLACES = "repeats", "replaces"  # user attributes of a trial: the number of another one


@dataclass(frozen=True)
class RunningTrial:
    """A trial that this process trains.

    Attributes:
        trial: Optuna's trial.
        lock: the open, locked file, by which other processes know that the trial is running.
    """

    trial: optuna.Trial
    lock: IO[str]

    @property
    def number(self) -> int:
        """Number of the trial: counts from 0, in the order of sampling."""
        return self.trial.number


class JournalLock:
    """Lets one process at a time write to the journal. Optuna's own locks remain when a process is killed."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock = FileLock(journal.with_suffix(".lock"))

    def acquire(self) -> bool:
        """Wait for the lock, and remove an incomplete last line, which a full disk may have left."""
        self.lock.acquire()
        with self.journal.open("rb+") as journal:
            end = journal.seek(0, 2)
            journal.seek(max(0, end - 1))
            if end and journal.read() != b"\n":
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Release the lock."""
        self.lock.release()


class TrialStorage:
    """The trials in a folder, which must exist.

    Args:
        config: settings of the search.
        folder: folder of the search.
        space: the search space.
        epochs: epochs of each training.

    Raises BadInput if the journal is damaged.
    """

    def __init__(self, config: SearchConfig, folder: Path, space: Space, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.config, self.folder, self.space = config, folder, space
        journal = folder / JOURNAL
        pruner: BasePruner = NopPruner()
        if config.prune:
            pruner = MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=1 + math.ceil(UNPRUNED_SHARE * epochs))
        with self.locked():
            try:
                lock: Any = JournalLock(journal)
                self.study = optuna.create_study(
                    study_name="search",
                    storage=JournalStorage(JournalFileBackend(str(journal), lock)),
                    pruner=pruner,
                    directions=["maximize", "minimize"] if config.objective == "front" else ["maximize"],
                    load_if_exists=True,
                )
            except (ValueError, KeyError) as error:
                raise BadInput(
                    f"{journal} is damaged ({error}): choose another `output`", settings=("output",)
                ) from error
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(dict(space.base_parameters))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from beginning or replacing trials within the `with` block.

        Raises BadInput if the file system has no locks.
        """
        with open(self.folder / ".lock", "a") as file:
            try:
                lock_file(file, math.inf)
            except LocksMissing as error:
                raise BadInput(
                    f"the file system of {self.folder} has no locks ({error.strerror}), which a search needs: choose "
                    "another `output`",
                    settings=("output",),
                ) from error
            yield

    def begin_next(self) -> RunningTrial | None:
        """Begin the next trial; None if there are enough, though other processes may still be training some."""
        with self.locked():
            self._replace_killed()
            while len(self.in_states()) < self.config.trials:
                self.study.sampler = self._sampler()
                trial = self.study.ask()
                for name, values in self.space.choices.items():
                    trial.suggest_categorical(name, values)
                known = next((t for t in self.counted() if t.number != trial.number and t.params == trial.params), None)
                if known is None:
                    return RunningTrial(trial, self._lock(trial.number))
                trial.set_user_attr(REPEATS, known.number)
                self._copy_result(trial, known)
        return None

    def all(self) -> list[FrozenTrial]:
        """Return all trials."""
        return self.study.get_trials(deepcopy=False)

    def counted(self) -> list[FrozenTrial]:
        """Return the trials except repeats of a network and trials that another one continues."""
        trials = self.all()
        replaced = {trial.user_attrs[REPLACES] for trial in trials if REPLACES in trial.user_attrs}
        return [trial for trial in trials if trial.number not in replaced and REPEATS not in trial.user_attrs]

    def in_states(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the counted trials in one of `states`; by default, in any state except WAITING."""
        wanted = states or tuple(set(TrialState) - {TrialState.WAITING})
        return [trial for trial in self.counted() if trial.state in wanted]

    def _replace_killed(self) -> None:
        """Mark killed trials as failed, and enqueue each of their networks again."""
        replaced = {trial.user_attrs.get(REPLACES) for trial in self.all()}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_locked(trial.number) or self._state(trial.number) != TrialState.RUNNING:
                continue  # the state is read again, since another process may have ended the trial and then its lock
            if trial.number not in replaced:  # else an earlier process was killed between these two steps
                self.study.enqueue_trial(self._parameters(trial), user_attrs={REPLACES: trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _state(self, number: int) -> TrialState:
        return self.all()[number].state

    def _parameters(self, trial: FrozenTrial) -> dict[str, Value]:
        """Return the network of a trial; empty if it was killed before it had sampled all of it."""
        parameters = trial.system_attrs.get("fixed_params", {}) | trial.params
        return parameters if parameters.keys() == self.space.choices.keys() else {}

    def _sampler(self) -> BaseSampler:
        """Return a new sampler for the next trial, seeded so that networks do not depend on interruptions.

        The seed is the trial's number, not counting trials that continue another one; these use its seed.
        `constant_liar`: networks in training count as bad ones, so that trainings at the same time differ more.
        """
        trials = self.all()
        first = next((trial.number for trial in trials if trial.state == TrialState.WAITING), len(trials))
        while first < len(trials) and REPLACES in trials[first].user_attrs:
            first = trials[first].user_attrs[REPLACES]
        number = sum(REPLACES not in trial.user_attrs for trial in trials[:first])
        seed = random.Random(f"{self.config.seed} {number}").getrandbits(32)
        stuck = len(trials) >= MOST_REPEATS and all(REPEATS in trial.user_attrs for trial in trials[-MOST_REPEATS:])
        return (
            RandomSampler(seed)
            if stuck or self.config.sampler == "random"
            else TPESampler(seed=seed, constant_liar=True)
        )

    def _copy_result(self, trial: optuna.Trial, known: FrozenTrial) -> None:
        if known.state == TrialState.COMPLETE:
            self.study.tell(trial, known.values)
        else:  # a trial that is still running counts as failed here: waiting would block all processes
            pruned = known.state == TrialState.PRUNED
            self.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def _lock(self, number: int) -> IO[str]:
        file = self._lock_file(number)
        file.parent.mkdir(exist_ok=True)
        lock = file.open("a")
        if not lock_file(lock):
            lock.close()
            raise BadInput(
                f"a training of an earlier search still locks {file}: wait for it, stop it, or choose another `output`",
                settings=("output",),
            )
        return lock

    def _is_locked(self, number: int) -> bool:
        try:
            with self._lock_file(number).open("r+") as lock:
                return not lock_file(lock)
        except FileNotFoundError:
            return False

    def _lock_file(self, number: int) -> Path:
        return self.folder / "trials" / f"{number}.lock"
