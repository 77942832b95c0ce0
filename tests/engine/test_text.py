"""Class names of any script in pictures: with a font that has them, else in Latin letters."""

import logging
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font

from engine import text
from engine.colors import VARIED, class_colors

FONTS = Path(matplotlib.get_data_path(), "fonts/ttf")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No cached texts, and the fonts of a machine without any besides matplotlib's own."""
    text.legible.cache_clear()
    monkeypatch.setattr(text, "_warned", [])
    monkeypatch.setattr(text, "_system_fonts", lambda: ())
    yield
    text.legible.cache_clear()


@pytest.mark.parametrize("name", ["red", "blå čaj", "Привет", "κόκκινο", "a_b-c (1)", "a b\u200dc"])
def test_names_that_the_default_font_has_are_unchanged(name, caplog):
    assert text.legible(name) == (name, text.DEFAULT)
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "latin"),
    [
        ("红", "Hong"),
        ("蓝 2", "Lan 2"),
        ("りんご", "ringo"),
        ("사과", "SaGwa"),
        ("हिन्दी", "hindi"),
        ("\U0001f34e", ":apple:"),
        ("\ue000", "?"),
    ],
)
def test_others_are_written_in_latin_letters(name, latin):
    shown, font = text.legible(name)
    assert shown == latin
    covered = FT2Font(str(font)).get_charmap()
    assert all(ord(letter) in covered for letter in shown)


def test_one_warning_names_the_first_text(caplog):
    with caplog.at_level(logging.WARNING, "engine.text"):
        text.legible("红")
        text.legible("蓝")
    (record,) = caplog.records
    assert "'红': pictures show 'Hong'" in record.getMessage()
    assert "Noto Sans CJK" in record.getMessage()


def test_a_font_that_has_the_characters_is_found(monkeypatch, caplog):
    """cmr10 has no Cyrillic letters, DejaVu Serif has."""
    latin, both = FONTS / "cmr10.ttf", FONTS / "DejaVuSerif.ttf"
    monkeypatch.setattr(text, "DEFAULT", latin)
    monkeypatch.setattr(text, "_system_fonts", lambda: (FONTS / "gone.ttf", FONTS / "cmsy10.ttf", both))
    assert text.legible("Привет 1") == ("Привет 1", both)
    assert text.legible("red") == ("red", latin)
    assert not caplog.records
    shown, font = text.font_of("Привет", 20)
    assert (shown, font.size, font.getname()[0]) == ("Привет", 20, "DejaVu Serif")
    assert text.plot_labels(["Привет", "a$b"]) == (["Привет", r"a\$b"], ["cmr10", "DejaVu Serif"])


def test_control_characters_become_spaces():
    assert text.legible("a\nb\tc").text == "a b c"


def test_plain_sans_serif_fonts_come_first():
    files = ["/x/NotoSerifCJK-Bold.ttc", "/x/NotoSansCJK-Bold.ttc", "/x/NotoSansCJK-Regular.ttc", "/x/batang.ttc"]
    ordered = sorted(map(Path, files), key=text._rank)
    assert [path.name for path in ordered] == [
        "NotoSansCJK-Regular.ttc", "NotoSansCJK-Bold.ttc", "batang.ttc", "NotoSerifCJK-Bold.ttc"
    ]  # fmt: skip


def test_fonts_without_real_glyphs_are_left_out(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(
        font_manager, "findSystemFonts", lambda: ["/x/LastResort.otf", "/x/NotoColorEmoji.ttf", "/x/good.ttf"]
    )
    text._system_fonts.cache_clear()
    assert text._system_fonts() == (Path("/x/good.ttf"),)
    text._system_fonts.cache_clear()


def test_colors():
    assert class_colors(0).shape == (0, 3)
    bright = class_colors(3)
    assert bright.dtype == np.uint8
    assert bright.tolist() == [[61, 155, 242], [208, 242, 61], [223, 61, 242]]
    assert class_colors(4, VARIED)[1].tolist() != bright[1].tolist()
