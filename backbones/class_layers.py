"""Fits the class layer of a weight file to the classes of a new model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, MutableMapping, Sequence

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


def fit_class_layer(
    loaded: MutableMapping[str, Tensor],
    own: Mapping[str, Tensor],
    keys: Sequence[str],
    stored: Sequence[str] | None,
    wanted: Sequence[str] | None,
    file: str,
) -> bool:
    """Replace the class layer in `loaded` by one that fits. Returns whether the file's weights are kept.

    They are kept if the file has the same classes; in another order, they are reordered by name. Otherwise the layer is
    dropped, which means that `loaded` gets the values in `own`. Both are logged as a warning. If the names on one side
    are not known, equal numbers of classes count as the same classes.

    Args:
        loaded: state dict from the file, with the keys of the model; changed in place.
        own: state dict of the model.
        keys: weight and bias of the class layer. Their rows are grouped by anchor, if there are several, then by class.
        stored: class names of the file, or None.
        wanted: class names of the model, or None.
        file: name of the file, for the log.
    """
    present = [key for key in keys if key in loaded]
    if any(loaded[key].shape != own[key].shape for key in present):
        reason = "the number of classes differs"
    elif stored is None or wanted is None or list(stored) == list(wanted):
        return True
    elif sorted(stored) == sorted(wanted) and len(set(stored)) == len(stored):
        order = torch.tensor([list(stored).index(name) for name in wanted])
        for key in present:
            loaded[key] = loaded[key].unflatten(0, (-1, len(order)))[:, order].flatten(0, 1)
        logger.warning("%s: the class layer is reordered by name, because the classes have another order", file)
        return True
    else:
        new = [name for name in wanted if name not in stored]
        reason = f"the classes differ: {', '.join(new[:3])}{', ...' if len(new) > 3 else ''} are not in the file"
    logger.warning("%s: '%s' is dropped, because %s", file, keys[0], reason)
    for key in present:
        loaded[key] = own[key]
    return False
