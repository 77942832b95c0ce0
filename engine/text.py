"""Text in pictures: a font that has the characters, else the text in Latin letters.

Matplotlib's DejaVu Sans has Latin, Greek, Cyrillic, Arabic, Hebrew and some more scripts. For others, such as Chinese,
Japanese, Korean, Thai and Devanagari, the fonts of the system are searched.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from PIL import ImageFont

# Part of matplotlib, which is imported only where a text has other characters than ASCII: that takes half a second.
DEFAULT = Path(str(find_spec("matplotlib").origin)).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf"  # type: ignore[union-attr]
# Parts of file names. Fonts with only boxes, empty glyphs or bitmaps in one size:
UNUSABLE = ("lastresort", "adobeblank", "emoji", "keycaps")
PREFERRED = ("sans", "gothic", "hei", "msyh", "malgun")  # the usual style of labels; msyh is Microsoft YaHei
STYLES = ("bold", "italic", "oblique", "black", "light", "thin", "medium", "mono", "condensed")

log = logging.getLogger(__name__)
_warned: list[str] = []  # the text that the warning named, at most one


class Legible(NamedTuple):
    """A text as it is drawn, and the font file that has all of its characters."""

    text: str
    font: Path


@cache
def legible(text: str) -> Legible:
    """The text with a font that has its characters. What no font has is transliterated to Latin letters.

    Line breaks and other control characters become spaces. A warning names the first transliterated text.
    """
    text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    if text.isascii():
        return Legible(text, DEFAULT)
    needed = {c for c in text if not _is_invisible(c)}
    best, covered = DEFAULT, _coverage(DEFAULT, text)
    for path in () if needed <= covered else _system_fonts():
        found = _coverage(path, text)
        if len(found & needed) > len(covered & needed):
            best, covered = path, found
        if needed <= covered:
            break
    drawn = "".join(c if c in covered else _in_latin(c) for c in text)
    if not needed <= covered:
        _warn(text, drawn)
    return Legible(drawn, best)


def font_of(text: str, size: int) -> tuple[str, ImageFont.FreeTypeFont]:
    """The text to draw with Pillow, and its font at `size` px."""
    shown, path = legible(text)
    return shown, _pillow_font(path, size)


def plot_labels(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The texts to draw with matplotlib, without mathematical notation, and the `fontfamily` that has their letters."""
    from matplotlib import font_manager

    shown = [legible(text) for text in texts]
    families = [font_manager.FontProperties(fname=DEFAULT).get_name()]
    for path in {item.font for item in shown} - {DEFAULT}:
        font_manager.fontManager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
    return [item.text.replace("$", r"\$") for item in shown], families


@cache
def _pillow_font(path: Path, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _system_fonts() -> tuple[Path, ...]:
    """Font files of the system, plain sans-serif ones first. Matplotlib's own list misses fonts installed since."""
    from matplotlib import font_manager

    names = [Path(file) for file in font_manager.findSystemFonts()]
    usable = [path for path in names if not any(part in path.name.lower() for part in UNUSABLE)]
    return tuple(sorted(usable, key=_rank))


def _rank(path: Path) -> tuple[bool, int, str]:
    name = path.name.lower()
    return not any(part in name for part in PREFERRED), sum(style in name for style in STYLES), str(path)


def _coverage(path: Path, text: str) -> set[str]:
    """The characters of a text that a font has. A font that FreeType cannot read has none."""
    from matplotlib.ft2font import FT2Font

    try:
        characters = FT2Font(str(path)).get_charmap()
    except (OSError, RuntimeError):
        return set()
    return {c for c in text if ord(c) in characters}


def _is_invisible(character: str) -> bool:
    """Whether a character has no glyph of its own: joiners, marks of direction, and selectors of a variant."""
    return unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f"


def _in_latin(character: str) -> str:
    from anyascii import anyascii  # needed for few data sets only

    is_mark = _is_invisible(character) or unicodedata.category(character).startswith("M")
    return anyascii(character) or ("" if is_mark else "?")


def _warn(text: str, drawn: str) -> None:
    """Warn about the first transliterated text of this process."""
    if not _warned:
        _warned.append(text)
        log.warning(
            "no installed font has all characters of %r: pictures show %r. For other scripts install a font that has "
            "them, such as Noto Sans CJK for Chinese, Japanese and Korean.",
            text,
            drawn,
        )
