"""Texts of data sets in pictures: any language, and signs that no installed font has."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import cache, lru_cache

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

logger = logging.getLogger(__name__)

WIDE = ("cjk", "noto sans", "hei", "song", "wenquanyi", "fallback", "unifont", "unicode", "emoji")
"""Words in the names of fonts with many scripts, which are looked into first."""
BOXES = ("last resort", "stixnon", "stixsize", "cm")
"""How the names of fonts begin that draw something else than the sign: boxes for all, parts of formulas."""


def make_readable(figure: Figure) -> None:
    """Give every text of ``figure`` fonts that have its signs, and write as code points what no font has.

    A dollar is a dollar: the texts are sentences and names, never formulas.
    """
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            _relabel(axis)
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_parse_math(False)
        content = text.get_text()
        if not content.isascii():
            font = text.get_fontproperties()
            text.set_text(shown(content, font))
            families = _families(content, font)
            text.set_fontfamily([*font.get_family(), *(name for name in families if name not in font.get_family())])


def shown(text: str, font: FontProperties | None = None) -> str:
    """``text``, with signs that no installed font has as code points (``\\u732b``), which the log says once.

    Args:
        text: Any.
        font: Whose signs come first; by default matplotlib's.
    """
    missing = {sign for sign in _foreign(text, font) if font_with(sign) is None}
    if not missing:
        return text
    _warn()
    return "".join(sign.encode("unicode_escape").decode() if sign in missing else sign for sign in text)


@cache
def font_with(sign: str) -> str | None:
    """The family of an installed font that has ``sign``; ``None`` if none has."""
    for name, path in _installed():
        if ord(sign) in _signs(path):
            return name
    return None


def _relabel(axis: Axis) -> None:
    """Labels of ticks are made anew whenever an axis is drawn: what is to stay must be told to the axis."""
    texts = [label.get_text() for label in axis.get_majorticklabels()]
    legible = [shown(text) for text in texts]
    if legible != texts:
        axis.set_ticks(axis.get_majorticklocs(), labels=legible)


def _foreign(text: str, font: FontProperties | None) -> set[str]:
    signs = _signs(findfont(font or FontProperties()))
    return {sign for sign in text if not sign.isspace() and ord(sign) not in signs}


def _families(text: str, font: FontProperties) -> Iterable[str]:
    found = (font_with(sign) for sign in sorted(_foreign(text, font)))
    return dict.fromkeys(name for name in found if name is not None)


@cache
def _installed() -> tuple[tuple[str, str], ...]:
    """Family and file of every font, the likely ones first."""
    fonts = {font.name: font.fname for font in fontManager.ttflist if not font.name.lower().startswith(BOXES)}
    return tuple(sorted(fonts.items(), key=lambda each: (not any(w in each[0].lower() for w in WIDE), each[0])))


@cache
def _signs(path: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a font that matplotlib lists and cannot read
        return frozenset()


@lru_cache(maxsize=1)
def _warn() -> None:
    logger.warning("no installed font has some of the signs of the pictures' texts: they are shown as code points")
