"""ImageNet's classes: WordNet synsets in the order of published outputs, their names, and how folders match them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from timm.data import ImageNetInfo, infer_imagenet_subset

from backbones.errors import BadInput

SYNSET = re.compile(r"n\d{8}")


@lru_cache
def synsets(outputs: int) -> tuple[str, ...]:
    """Synsets of a published network's outputs, from their number: 1000, or timm's larger sets.

    Raises BadInput for any other number.
    """
    return tuple(_info(outputs).label_names())


@lru_cache
def names(outputs: int) -> tuple[str, ...]:
    """A readable name for each output: the first word for it, with the synset where several classes share the word."""
    words = [_words(outputs)[synset][0] for synset in synsets(outputs)]
    count = Counter(words)
    return tuple(
        f"{word} ({synset})" if count[word] > 1 else word for word, synset in zip(words, synsets(outputs), strict=True)
    )


def readable(classes: Sequence[str]) -> list[str]:
    """Class names for people: synset folders of ImageNet-1k by their first word, others as they are."""
    table = dict(zip(synsets(1000), names(1000), strict=True)) if any(map(SYNSET.fullmatch, classes)) else {}
    return [table.get(name, name) for name in classes]


def match(classes: Sequence[str], outputs: int) -> list[int]:
    """The output of each class of a data set, by synset, or by any of WordNet's words for it.

    Case, underscores and hyphens do not count. Raises BadInput naming classes that match no output, or several.
    """
    place = {synset: i for i, synset in enumerate(synsets(outputs))}
    of_word: dict[str, list[int]] = defaultdict(list)
    for synset, i in place.items():
        for word in _words(outputs)[synset]:
            of_word[_plain(word)].append(i)
    found = {name: [place[name]] if name in place else of_word.get(_plain(name), []) for name in classes}
    unknown = [name for name, matches in found.items() if not matches]
    if unknown:
        raise BadInput(
            f"{len(unknown)} of the data set's {len(classes)} classes are none of the {outputs} that the network was "
            f"published with, such as {', '.join(unknown[:3])}: name its folders by synset (n01440764) or by ImageNet's"
            " words (tench), or train on it first"
        )
    unclear = [name for name, matches in found.items() if len(matches) > 1]
    if unclear:
        meant = ", ".join(synsets(outputs)[i] for i in found[unclear[0]])
        raise BadInput(f"class '{unclear[0]}' may mean {meant}: name its folder by one of these")
    indices = [matches[0] for matches in found.values()]
    if len(set(indices)) < len(indices):
        twice = Counter(indices).most_common(1)[0][0]
        same = ", ".join(name for name, matches in found.items() if matches == [twice])
        raise BadInput(f"classes {same} of the data set are one and the same to the network: {names(outputs)[twice]}")
    return indices


@lru_cache
def _info(outputs: int) -> Any:
    subset = infer_imagenet_subset({"num_classes": outputs})
    if subset is None:
        raise BadInput(f"the names of the network's {outputs} published classes are not known here")
    return ImageNetInfo(subset)


@lru_cache
def _words(outputs: int) -> dict[str, list[str]]:
    """Synset -> WordNet's words for it, the most usual first."""
    return {synset: text.split(", ") for synset, text in _info(outputs).label_descriptions(as_dict=True).items()}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()
