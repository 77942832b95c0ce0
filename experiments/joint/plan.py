"""The trainings of a comparison of joint and single-task networks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backbones.errors import UserError
from engine.cli import parse
from experiments.joint.config import JointCompareConfig, JointTrainConfig, kinds_of
from experiments.joint.settings import SHARED, by_flag, resolved, split_by_head, without_preset


@dataclass(frozen=True)
class Training:
    """One training: the package of its command, its flags without `--output`, and its folder."""

    package: str
    arguments: tuple[str, ...]
    folder: Path

    @property
    def name(self) -> str:
        """`BACKBONE/HEAD-alone-sSEED-HASH` or `BACKBONE/joint-sSEED-HASH`."""
        return "/".join(self.folder.parts[-2:])

    @property
    def words(self) -> list[str]:
        """The flags with which `train` starts it, resumes it, or does nothing if it is complete."""
        return [*self.arguments, "--output", str(self.folder), "--resume", "auto"]


class Plan:
    """The trainings of a backbone and a seed.

    Args:
        config: settings of the comparison.
        words: flags of all trainings.
        joint: flags of the joint training alone.
    """

    def __init__(self, config: JointCompareConfig, words: Sequence[str], joint: Sequence[str]) -> None:
        for word in words:
            name = word.partition("=")[0].removeprefix("--")
            if word.startswith("--") and name in ("backbone", "seed", "output", "resume", "heads"):
                raise UserError(f"--{name} cannot be set: the comparison sets it")
        self.config, self.joint_words = config, tuple(joint)
        self.kinds = kinds_of(config.heads)
        self.words = tuple(words)
        self._heads = ("--heads", *config.heads)
        own, by_head = split_by_head([*words, *joint, *self._heads])
        parsed = parse("experiments.joint.train", JointTrainConfig, own)
        self.settings = resolved(parsed, own, by_head)
        self.settings.check()
        shared, self._by_head = split_by_head([*words, *self._heads])
        # The flags that all tasks have, with their values.
        self._shared = [
            word
            for flag, group in by_flag(shared).items()
            if flag.startswith("--data.") or flag.removeprefix("--") in SHARED
            for word in group
        ]

    @property
    def epochs(self) -> int:
        """Epochs of the single trainings."""
        return self.settings.epochs

    def single(self, name: str, backbone: str, seed: int) -> Training:
        """The training of one head's task alone, with the neck and the size of the joint network."""
        kind = self.kinds[name]
        preset, words = without_preset(self._by_head.get(name, ()))
        network = ["--neck", "bifpn"] if kind == "classification" else ["--phi", str(self.settings.phi)]
        arguments = (*preset, *self._shared, *words, *network, "--epochs", str(self.epochs), *_of(backbone, seed))
        return self._training(kind, arguments, f"{name}-alone", backbone, seed)

    def joint(self, backbone: str, seed: int, epochs: int | None = None) -> Training:
        """The joint training."""
        more = () if epochs is None else ("--epochs", str(epochs))
        arguments = (*self.words, *self.joint_words, *self._heads, *more, *_of(backbone, seed))
        return self._training("experiments.joint", arguments, "joint", backbone, seed)

    def _training(self, package: str, arguments: Sequence[str], name: str, backbone: str, seed: int) -> Training:
        digest = hashlib.sha256(json.dumps([f"{package}.train", *arguments]).encode()).hexdigest()[:8]
        place = "".join(c if c.isalnum() or c in "._" else "-" for c in backbone)
        folder = Path(self.config.output) / "trainings" / place / f"{name}-s{seed}-{digest}"
        return Training(package, tuple(arguments), folder)


def _of(backbone: str, seed: int) -> tuple[str, ...]:
    return "--backbone", backbone, "--seed", str(seed)
