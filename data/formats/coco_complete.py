"""Which classes of an image have all their boxes, from the fields of LVIS (arXiv:1908.03195).

LVIS and other federated data label some of the classes in each image. `neg_category_ids` are classes that an image does
not contain, and `not_exhaustive_category_ids` classes of which it contains more objects than there are boxes. Nothing
is known about other classes without boxes in an image with `neg_category_ids`. In an image without this field, all
objects of all classes have boxes, as in COCO.
"""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from data.formats.coco_records import Records

ABSENT, PARTIAL = "neg_category_ids", "not_exhaustive_category_ids"


def complete_classes(
    records: Records, category_ids: np.ndarray, image: np.ndarray, label: np.ndarray
) -> np.ndarray | None:
    """(n, K) bool, see `BoxColumns.complete`; None if no image has a field of LVIS.

    Args:
        records: of the file.
        category_ids: (K,) ids of the classes.
        image, label: (N,) index of the image and of the class of each box.

    Raises BadInput for fields that are not lists of known ids.
    """
    federated = records.has("images", ABSENT)
    if not federated.any() and not records.has("images", PARTIAL).any():
        return None
    complete = np.repeat(~federated[:, None], len(category_ids), axis=1)
    complete[_pairs(records, ABSENT, category_ids)] = True
    complete[image, label] = True
    complete[_pairs(records, PARTIAL, category_ids)] = False
    return complete


def fields_of(complete: np.ndarray, labelled: np.ndarray, category_ids: np.ndarray) -> list[dict[str, Any]]:
    """The fields of LVIS for each image; the reverse of `complete_classes`.

    Args:
        complete: (n, K) bool.
        labelled: (n, K) bool, whether an image has boxes of a class.
        category_ids: (K,) ids of the classes.
    """
    return [
        {ABSENT: category_ids[whole & ~own].tolist(), PARTIAL: category_ids[~whole & own].tolist()}
        for whole, own in zip(complete, labelled, strict=True)
    ]


def _pairs(records: Records, key: str, category_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of images and of classes, one pair for each id in the lists of this field."""
    lists = records.values("images", key, default=[])
    is_list = np.array([isinstance(ids, list) and all(type(i) is int for i in ids) for ids in lists], bool)
    records.refuse(~is_list, "images", f"a field {key} that is not a list of ids of categories")
    ids = np.array(list(chain.from_iterable(lists)), np.int64)
    rows = np.repeat(np.arange(len(lists)), [len(own) for own in lists])
    order = np.argsort(category_ids)
    classes = order[np.searchsorted(category_ids[order], ids).clip(max=len(order) - 1)]
    unknown = np.zeros(len(lists), bool)
    unknown[rows[category_ids[classes] != ids]] = True
    records.refuse(unknown, "images", f"an id in {key} that is not among the categories of the file")
    return rows, classes
