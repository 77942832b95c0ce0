"""What differs between the data that a run was trained on and the data that it would be resumed with."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from engine.checkpoint import RunInfo

log = logging.getLogger(__name__)

SPLITS = {"train": "training", "val": "validation"}
MAX_NAMES = 5  # class names in a message


def data_changes(stored: RunInfo, present: RunInfo) -> list[str]:
    """The differences between the data of a stored run and present data, in words. Empty if the data are the same.

    Compares classes with their order, and the fingerprints of images and labels. Versions of this package that compute
    another fingerprint are not comparable: then it compares only classes and numbers of images, and logs that.
    """
    before, now = stored.dataset, present.dataset
    changes = _class_changes(stored.classes, present.classes)
    versions = [data.get("fingerprint_version", 1) for data in (before, now)]
    if versions[0] != versions[1]:
        log.warning(
            "the run was started with another version of this package, which computed other fingerprints (%s, now %s): "
            "only classes and numbers of images are compared with its data, not the labels",
            *versions,
        )
    for split, name in SPLITS.items():
        if versions[0] != versions[1]:
            changes += _count_changes(before[split], now[split], name, ("images",))
        elif before["fingerprint"][split] != now["fingerprint"][split]:
            found = _count_changes(before[split], now[split], name)
            if "digests" in before:
                found += _digest_changes(before["digests"][split], now["digests"][split], name)
            if not found and not changes:
                found = [f"names, sizes or labels of the {name} images differ"]
            changes += found
    return changes


def _class_changes(before: Sequence[str], now: Sequence[str]) -> list[str]:
    if list(before) == list(now):
        return []
    missing, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if not missing and not new:
        return [f"the order of the classes was {_listed(before)}, and is now {_listed(now)}"]
    changes = []
    if missing:
        changes.append(f"the class{'es' * (len(missing) > 1)} {_listed(missing)} {_are(missing)} missing")
    if new:
        changes.append(f"the class{'es' * (len(new) > 1)} {_listed(new)} {_are(new)} new")
    if len(missing) == len(new) == 1:
        changes.append("perhaps renamed")
    return [", ".join(changes)]


def _count_changes(
    before: dict[str, Any], now: dict[str, Any], split: str, only: Sequence[str] | None = None
) -> list[str]:
    """The counts of two reports of one split that differ. Later versions may report more counts, or fewer."""
    counts = {
        name: (value, now[name])
        for name, value in before.items()
        if isinstance(value, int) and name in now and (only is None or name in only) and name != "classes"
    }
    return [
        f"{split}, {name.replace('_', ' ')}: {first}, now {second}"
        for name, (first, second) in counts.items()
        if first != second
    ]


def _digest_changes(before: dict[str, str], now: dict[str, str], split: str) -> list[str]:
    """Which parts of the data of one split differ. With other file names, sizes and labels are in another order."""
    if before["names"] != now["names"]:
        return [f"other file names of {split} images"]
    words = {"sizes": f"other sizes in bytes of {split} images", "labels": f"other labels of {split} images"}
    return [text for part, text in words.items() if before[part] != now[part]]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names[:MAX_NAMES]) + (", ..." if len(names) > MAX_NAMES else "")


def _are(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
