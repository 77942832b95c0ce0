"""Which objects of partly labelled images have boxes, from the fields of LVIS (arXiv:1908.03195).

In LVIS, each image is labelled for some of the classes. `neg_category_ids` are classes that the image does not contain.
Any other class without boxes may or may not be in it. `not_exhaustive_category_ids` are classes of which it may contain
more objects than there are boxes. In an image without `neg_category_ids`, only these classes may lack boxes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np

from data.formats.coco_records import Records, is_whole, positions_of

ABSENT, PARTIAL = "neg_category_ids", "not_exhaustive_category_ids"

log = logging.getLogger(__name__)


def complete_classes(
    records: Records, category_ids: np.ndarray, image: np.ndarray, label: np.ndarray, boxes: np.ndarray
) -> np.ndarray | None:
    """(n, K) bool, see `BoxColumns.complete`; None if no image has a field of LVIS.

    Args:
        records: of the file.
        category_ids: (K,) ids of the classes.
        image, label: (N,) index of the image and of the class of each box.
        boxes: (N, 4) x1 y1 x2 y2. An object whose box has no area counts as an object without a box.

    Ids that are not among `category_ids` are left out with a warning. Raises BadInput for fields that are not lists of
    whole numbers.
    """
    absent, partial = (records.values("images", key, default=None) for key in (ABSENT, PARTIAL))
    is_partly_labelled = np.array([ids is not None for ids in absent], bool)
    if not is_partly_labelled.any() and all(ids is None for ids in partial):
        return None
    complete = np.repeat(~is_partly_labelled[:, None], len(category_ids), axis=1)
    complete[_pairs(records, ABSENT, absent, category_ids)] = True
    complete[image, label] = True
    with np.errstate(invalid="ignore"):
        usable = np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    unusable = ~usable & is_partly_labelled[image]
    complete[image[unusable], label[unusable]] = False
    complete[_pairs(records, PARTIAL, partial, category_ids)] = False
    return complete


def lvis_fields(complete: np.ndarray, labelled: np.ndarray, category_ids: np.ndarray) -> Iterator[dict[str, Any]]:
    """The fields of LVIS for each image; the reverse of `complete_classes`. Images that are fully labelled have none.

    Args:
        complete: (n, K) bool.
        labelled: (n, K) bool, whether an image has boxes of a class.
        category_ids: (K,) ids of the classes.
    """
    for has_all, has_some in zip(complete, labelled, strict=True):
        fields = {}
        if not (has_all | has_some).all():
            fields[ABSENT] = category_ids[has_all & ~has_some].tolist()
        if (has_some & ~has_all).any():
            fields[PARTIAL] = category_ids[has_some & ~has_all].tolist()
        yield fields


def _pairs(records: Records, key: str, values: list[Any], category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images and of classes, one pair for each id in the lists of a field. None is an empty list."""
    lists = [[] if ids is None else ids for ids in values]
    is_list = np.array([isinstance(ids, list) and all(map(is_whole, ids)) for ids in lists], bool)
    records.refuse(~is_list, "images", f"a field {key} that is not a list of ids of categories")
    ids = np.array(list(chain.from_iterable(lists))).astype(np.int64)
    rows = np.repeat(np.arange(len(lists)), [len(own) for own in lists])
    classes, known = positions_of(ids, category_ids)
    if not known.all():
        log.warning("%s: %d ids in %s are not among the categories of the file and are left out, such as %d",
                    records.file, (~known).sum(), key, ids[~known][0])  # fmt: skip
    return rows[known], classes[known]
