"""Classes are matched by name, never by number: validation and training data, a model and the data it is scored on.

Rules: a name matches the equal name. Otherwise upper and lower case, spaces, underscores, hyphens and the Unicode form
make no difference, if that leaves exactly one match. (macOS may write an accented letter as two characters.)
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from backbones.errors import BadInput
from data.columns import BoxColumns


def match_names(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """Index in `known` of each name; -1 for a name without a match. No two names match the same one."""
    exact = {name: i for i, name in enumerate(known)}
    plain: dict[str, list[int]] = defaultdict(list)
    for i, name in enumerate(known):
        plain[plain_name(name)].append(i)
    count = Counter(plain_name(name) for name in names)
    taken = {exact[name] for name in names if name in exact}
    found = []
    for name in names:
        near = plain[plain_name(name)]
        usable = len(near) == 1 and count[plain_name(name)] == 1 and near[0] not in taken
        found.append(exact.get(name, near[0] if usable else -1))
    return found


def plain_name(name: str) -> str:
    """The name in lower case and composed characters, with single spaces for spaces, underscores and hyphens."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def printed_name(name: str) -> str:
    """The name without what no person sees: spaces around it, and accents as characters of their own."""
    return unicodedata.normalize("NFC", name.strip())


def merge_same_names(columns: BoxColumns, merge: bool) -> BoxColumns:
    """The columns with one class per name, as it is printed. Raises BadInput for several of one name unless `merge`."""
    names = tuple(printed_name(name) for name in columns.classes)
    columns = replace(columns, classes=names)
    if len(set(names)) == len(names):
        return columns
    name = Counter(names).most_common(1)[0][0]
    ids = [str(i) for i, other in zip(columns.category_ids, names, strict=True) if other == name]
    if not merge:
        raise BadInput(
            f"{columns.source} has {len(ids)} classes called '{name}', with the ids {' and '.join(ids)}. Rename them, "
            "or read them as one class with `merge_classes=True`",
            settings=("data.merge_classes",),
        )
    first = [names.index(name) for name in dict.fromkeys(names)]
    new_index = {old: new for new, old in enumerate(first)}
    lookup = np.array([new_index[names.index(name)] for name in names])
    return columns.renamed([names[i] for i in first], [columns.category_ids[i] for i in first], lookup)


def with_classes(columns: BoxColumns, classes: Sequence[str], category_ids: Sequence[int], of: str) -> BoxColumns:
    """The columns with the labels of other data or of a model, matched by name.

    Args:
        columns: boxes with classes of their own. Classes without boxes may be missing in `classes`.
        classes: class names to use.
        category_ids: ids in result files for classes that `columns` lacks. The others keep the ids of `columns`.
        of: what has `classes`, for messages, such as "the model".

    Raises BadInput if a class with boxes has no match.
    """
    index = match_names(columns.classes, classes)
    counts = np.bincount(columns.label, minlength=len(columns.classes))
    unknown = [
        f"'{name}' ({count} boxes)"
        for name, i, count in zip(columns.classes, index, counts, strict=True)
        if i < 0 and count
    ]
    if unknown or (max(index) < 0 and len(columns.label)):
        raise BadInput(
            f"{len(unknown)} classes of {columns.source} are not among the {len(classes)} classes of {of}: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}. Classes are matched by name. Those of "
            f"{of} are {', '.join(classes[:5])}{', ...' if len(classes) > 5 else ''}"
        )
    own_ids = {i: own for i, own in zip(index, columns.category_ids, strict=True) if i >= 0}
    used = set(own_ids.values())
    free = max([*used, *category_ids], default=0) + 1
    ids = []
    for i, other in enumerate(category_ids):
        if i not in own_ids and other in used:
            other, free = free, free + 1  # the id means another class in these data
        ids.append(own_ids.get(i, other))
        used.add(ids[-1])
    return columns.renamed(classes, ids, index)


def without_classes(columns: BoxColumns, dropped: set[str]) -> BoxColumns:
    """The columns without some classes, which have no boxes."""
    kept = [i for i, name in enumerate(columns.classes) if name not in dropped]
    position = np.full(len(columns.classes), -1)
    position[kept] = np.arange(len(kept))
    return columns.renamed([columns.classes[i] for i in kept], [columns.category_ids[i] for i in kept], position)
