"""ImageNet's classes: WordNet synsets in the order of the network outputs, their names, and matching class folders."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from backbones.errors import BadInput

SYNSET = re.compile(r"n\d{8}")


@lru_cache
def synsets(outputs: int) -> tuple[str, ...]:
    """Synsets of the outputs of a published network, in order.

    Args:
        outputs: number of outputs: 1000, or that of one of timm's larger ImageNet sets.

    Raises BadInput for any other number.
    """
    return tuple(_info(outputs).label_names())


@lru_cache
def names(outputs: int) -> tuple[str, ...]:
    """A readable name for each output: its first WordNet word, and its synset too if several classes share the word."""
    words = [_words(outputs)[synset][0] for synset in synsets(outputs)]
    count = Counter(words)
    return tuple(
        f"{word} ({synset})" if count[word] > 1 else word for word, synset in zip(words, synsets(outputs), strict=True)
    )


def readable(classes: Sequence[str]) -> list[str]:
    """Readable class names: synsets of ImageNet-1k become their first WordNet word, other names stay unchanged."""
    table = dict(zip(synsets(1000), names(1000), strict=True)) if any(map(SYNSET.fullmatch, classes)) else {}
    return [table.get(name, name) for name in classes]


def match(classes: Sequence[str], outputs: int) -> list[int]:
    """The output index of each class of a data set, found by its synset or by one of WordNet's words for it.

    Upper and lower case, underscores and hyphens make no difference.

    Raises BadInput if a class matches no output or several, or if two classes match the same output.
    """
    by_synset = {synset: i for i, synset in enumerate(synsets(outputs))}
    by_word: dict[str, list[int]] = defaultdict(list)
    for synset, i in by_synset.items():
        for word in _words(outputs)[synset]:
            by_word[_plain(word)].append(i)
    matches = {name: [by_synset[name]] if name in by_synset else by_word.get(_plain(name), []) for name in classes}
    unknown = [name for name, found in matches.items() if not found]
    if unknown:
        raise BadInput(
            f"{len(unknown)} of the data set's {len(classes)} classes, such as {', '.join(unknown[:3])}, are not among "
            f"the {outputs} classes of the published network: name the folders by synset (n01440764) or by ImageNet's "
            "words (tench), or train on the data set first"
        )
    ambiguous = [name for name, found in matches.items() if len(found) > 1]
    if ambiguous:
        candidates = ", ".join(synsets(outputs)[i] for i in matches[ambiguous[0]])
        raise BadInput(f"class '{ambiguous[0]}' is ambiguous: name its folder by one of {candidates}")
    indices = [found[0] for found in matches.values()]
    if len(set(indices)) < len(indices):
        duplicate = Counter(indices).most_common(1)[0][0]
        same = ", ".join(name for name, found in matches.items() if found == [duplicate])
        raise BadInput(f"classes {same} of the data set are the same class of the network: {names(outputs)[duplicate]}")
    return indices


@lru_cache
def _info(outputs: int) -> Any:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": outputs})
    if subset is None:
        raise BadInput(f"there is no list of names for a published network with {outputs} classes")
    return ImageNetInfo(subset)


@lru_cache
def _words(outputs: int) -> dict[str, list[str]]:
    """Synset -> WordNet's words for it, the most common first."""
    return {synset: text.split(", ") for synset, text in _info(outputs).label_descriptions(as_dict=True).items()}


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().lower()
