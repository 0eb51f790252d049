"""Texts of any language in pictures: a font that has the signs, or their code points; never boxes, never a crash."""

import logging
import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.font_manager import fontManager

from moezoo.viz import fonts
from moezoo.viz.style import new_figure, save_figure

CAT, DOG = "猫", "狗"


@pytest.fixture(autouse=True)
def _known_anew():
    caches = (fonts.font_with, fonts._installed, fonts._signs, fonts._warn)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def only_latin(monkeypatch):
    """A machine without Chinese fonts."""
    kept = [font for font in fontManager.ttflist if font.name.startswith("DejaVu")]
    monkeypatch.setattr(fontManager, "ttflist", kept)


@pytest.fixture
def with_cats(only_latin, tmp_path):
    """That machine with one more font, which has a single Chinese sign."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    pen.lineTo((500, 700))
    pen.lineTo((900, 0))
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    path = tmp_path / "cats.ttf"
    builder.save(path)
    fontManager.addfont(path)


def picture_of(*texts):
    """A figure with the texts as title, as label of a tick and in a legend."""
    figure = new_figure(3, 3)
    ax = figure.subplots()
    ax.bar([0, 1], [1, 2], label=texts[0])
    ax.set_xticks([0, 1], [texts[0], texts[-1]])
    ax.set_title(texts[0])
    ax.legend()
    return figure, ax


def test_signs_that_no_font_has_are_code_points_and_the_log_says_so_once(only_latin, tmp_path, caplog):
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of every missing glyph
        for number in range(2):
            figure, ax = picture_of(f"a {CAT} ä", "plain")
            path = save_figure(figure, tmp_path / f"{number}.png", dpi=40)
            assert path.read_bytes().startswith(b"\x89PNG")
    assert ax.get_title() == r"a \u732b ä"
    assert [label.get_text() for label in ax.get_xticklabels()] == [r"a \u732b ä", "plain"]
    assert ax.get_legend().get_texts()[0].get_text() == r"a \u732b ä"
    assert [record.name for record in caplog.records] == ["moezoo.viz.fonts"]


def test_a_font_that_has_the_sign_is_found_and_used_beside_the_usual_one(with_cats, tmp_path, caplog):
    assert fonts.font_with(CAT) == "Cats"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, ax = picture_of(f"a {CAT}", f"{CAT} and {DOG}")
        save_figure(figure, tmp_path / "cat.png", dpi=40)
    assert ax.get_title() == f"a {CAT}"
    assert ax.title.get_fontfamily()[-1] == "Cats"
    labels = ax.get_xticklabels()
    assert [label.get_text() for label in labels] == [f"a {CAT}", rf"{CAT} and \u72d7"]
    assert all(label.get_fontfamily()[-1] == "Cats" for label in labels)
    assert len(caplog.records) == 1  # the dog


def test_a_dollar_is_no_formula(tmp_path):
    figure, ax = picture_of(r"$5 hat^ \ale", "$x_")
    save_figure(figure, tmp_path / "dollar.png", dpi=40)
    assert ax.get_title() == r"$5 hat^ \ale"
