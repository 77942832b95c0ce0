"""The trials of a search: who draws which, how many there are, and what becomes of those whose process was killed.

Optuna's journal in the search's folder holds them, and any number of processes may share it: one at a time begins a
trial, and holds a lock on a file of the trial's for as long as it, or the process that trains it, lives. A trial that
runs while nobody holds its lock was killed: its network is drawn again under another number, and counts once.
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
UNPRUNED = 5  # trials that the median needs before it stops any
UNPRUNED_SHARE = 1 / 3  # of the epochs, in which scores say little yet
STUBBORN = 20  # repeats in a row, after which the sampler's model is left aside
REPEATS, REPLACES = "repeats", "replaces"  # notes on a trial: the number of another one


@dataclass(frozen=True)
class Running:
    """A trial that this process trains.

    Attributes:
        trial: Optuna's.
        lock: the open file that tells other processes so.
    """

    trial: optuna.Trial
    lock: IO[str]

    @property
    def number(self) -> int:
        """Counted from 0, in the order of drawing."""
        return self.trial.number


class JournalLock:
    """Keeps processes from writing to the journal at once. Optuna's own locks outlive a process that is killed."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.lock = FileLock(journal.with_suffix(".lock"))

    def acquire(self) -> bool:
        """Wait for the lock, and cut off half a line that a full disk may have left."""
        self.lock.acquire()
        with self.journal.open("rb+") as journal:
            end = journal.seek(0, 2)
            journal.seek(max(0, end - 1))
            if end and journal.read() != b"\n":
                journal.seek(0)
                journal.truncate(journal.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        """Let others write."""
        self.lock.release()


class Trials:
    """The trials in `folder`, which has to exist.

    Args:
        config: of the search.
        folder: of its files.
        space: what is drawn from.
        epochs: of a training.
    """

    def __init__(self, config: SearchConfig, folder: Path, space: Space, epochs: int) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.config, self.folder, self.space = config, folder, space
        journal = folder / JOURNAL
        pruner: BasePruner = NopPruner()
        if config.prune:
            pruner = MedianPruner(n_startup_trials=UNPRUNED, n_warmup_steps=1 + math.ceil(UNPRUNED_SHARE * epochs))
        with self.alone():
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
                raise BadInput(f"{journal} is damaged ({error}): choose another --output") from error
            if not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(dict(space.of_base))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this lasts, no other process begins or gives up a trial. Raises BadInput where there are no locks."""
        with open(self.folder / ".lock", "a") as file:
            try:
                lock_file(file, math.inf)
            except LocksMissing as error:
                raise BadInput(
                    f"the file system of {self.folder} has no locks ({error.strerror}), by which a search knows what "
                    "runs: choose another --output"
                ) from error
            yield

    def draw(self) -> Running | None:
        """Begin the next trial; None where no more are to be begun, though other processes may still train some."""
        with self.alone():
            self._give_up_killed()
            while len(self.counted()) < self.config.trials:
                self.study.sampler = self._sampler()
                trial = self.study.ask()
                for name, values in self.space.choices.items():
                    trial.suggest_categorical(name, values)
                known = next((t for t in self.own() if t.number != trial.number and t.params == trial.params), None)
                if known is None:
                    return Running(trial, self._hold(trial.number))
                trial.set_user_attr(REPEATS, known.number)
                self._tell_known(trial, known)
        return None

    def own(self) -> list[FrozenTrial]:
        """All trials but repeats of a network that was drawn before, and those that another has taken the place of."""
        trials = self.study.get_trials(deepcopy=False)
        replaced = {trial.user_attrs[REPLACES] for trial in trials if REPLACES in trial.user_attrs}
        return [trial for trial in trials if trial.number not in replaced and REPEATS not in trial.user_attrs]

    def counted(self, *states: TrialState) -> list[FrozenTrial]:
        """The own trials that are in one of `states`; by default those that have begun."""
        return [
            trial for trial in self.own() if trial.state in (states or tuple(set(TrialState) - {TrialState.WAITING}))
        ]

    def _give_up_killed(self) -> None:
        replaced = {trial.user_attrs.get(REPLACES) for trial in self.study.get_trials(deepcopy=False)}
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if self._is_held(trial.number):
                continue
            if trial.number not in replaced:  # else this process's predecessor was killed here, too
                self.study.enqueue_trial(parameters(trial), user_attrs={REPLACES: trial.number})
            self.study.tell(trial.number, state=TrialState.FAIL)

    def _sampler(self) -> BaseSampler:
        """A new one for each trial, seeded by its place: what is drawn does not depend on interruptions."""
        trials = self.study.get_trials(deepcopy=False)
        seed = random.Random(f"{self.config.seed} {len(trials)}").getrandbits(32)
        stuck = len(trials) >= STUBBORN and all(REPEATS in trial.user_attrs for trial in trials[-STUBBORN:])
        return RandomSampler(seed) if stuck or self.config.sampler == "random" else TPESampler(seed=seed)

    def _tell_known(self, trial: optuna.Trial, known: FrozenTrial) -> None:
        if known.state == TrialState.COMPLETE:
            self.study.tell(trial, known.values)
        else:  # a value that is not known yet is not waited for
            pruned = known.state == TrialState.PRUNED
            self.study.tell(trial, state=TrialState.PRUNED if pruned else TrialState.FAIL)

    def _hold(self, number: int) -> IO[str]:
        place = self._lock_of(number)
        place.parent.mkdir(exist_ok=True)
        lock = place.open("a")
        if not lock_file(lock):
            lock.close()
            raise BadInput(
                f"a training that an earlier search left behind holds {place}: wait for it, stop it, or choose another "
                "--output"
            )
        return lock

    def _is_held(self, number: int) -> bool:
        try:
            with self._lock_of(number).open("r+") as lock:
                return not lock_file(lock)
        except FileNotFoundError:
            return False

    def _lock_of(self, number: int) -> Path:
        return self.folder / "trials" / f"{number}.lock"


def parameters(trial: FrozenTrial) -> dict[str, Value]:
    """What a trial has drawn or was told to draw; not all of them where it was killed in between."""
    return trial.system_attrs.get("fixed_params", {}) | trial.params
