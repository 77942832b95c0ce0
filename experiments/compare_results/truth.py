"""Finds the split that results are scored against, in any layout that training reads."""

from __future__ import annotations

from pathlib import Path

from backbones.errors import BadInput
from data.columns import Kind
from data.formats import Format, Split, recognise, split_of
from data.open import locate
from experiments.compare_results.config import TruthData


def locate_truth(kind: Kind, root: Path, data: TruthData) -> tuple[Format, Split]:
    """The format and place of the truth: the split that is named, the validation split, or the only one.

    Raises BadInput if the layout is not recognised, and if there are several splits and none is chosen.
    """
    if data.split is not None:
        return locate(kind, root, data.split, data, may_be_path=True)
    form, _ = recognise(root, kind, data.format)
    found = form.splits(root)
    name = split_of(found, "val") or (found[0] if len(found) == 1 else None)
    if name is None and found:
        raise BadInput(
            f"the truth {root} ({form.name}) has the splits {', '.join(found)}: choose one with `split`",
            settings=("data.split",),
        )
    return form, Split(root, name or "")
