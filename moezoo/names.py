"""Model names: ``family/arch[.variant]``, the underscore spelling, and the nearest spelling of a wrong one.

No torch here: ``moezoo list`` and ``--help`` depend on this module.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

STORED_PREFIXES = ("hf-hub:", "local-dir:")
HUB_BACKBONE = "hf:"
"""Begins the name of a backbone of the transformers library: ``hf:user/repo``."""


@dataclass(frozen=True)
class ModelName:
    """A parsed name. ``variant`` is ``""`` when the name has none."""

    family: str
    arch: str
    variant: str = ""

    @property
    def base(self) -> str:
        """``family/arch``, the key models are registered under."""
        return f"{self.family}/{self.arch}"

    @property
    def underscore(self) -> str:
        """The spelling timm users type: ``entity_moe_vit_base.last``."""
        return str(self).replace("/", "_", 1)

    def __str__(self) -> str:
        return f"{self.base}.{self.variant}" if self.variant else self.base


def parse_name(name: str, families: Iterable[str]) -> ModelName | None:
    """Split ``name`` by the registered ``families``; ``None`` when no family fits.

    The longest family wins; after it the first ``_`` or ``/`` ends the family. The variant keeps its dot, the last one
    of an ``hf:user/repo``.
    """
    for family in sorted(families, key=len, reverse=True):
        rest = name.removeprefix(family)
        if rest != name and len(rest) > 1 and rest[0] in "/_":
            # A Hub id may hold dots itself.
            split = str.rpartition if rest[1:].startswith(HUB_BACKBONE) else str.partition
            before, dot, after = split(rest[1:], ".")
            return ModelName(family, before, after) if dot else ModelName(family, rest[1:])
    return None


def is_stored_name(name: str) -> bool:
    """Whether ``name`` points at a stored model (``hf-hub:`` or ``local-dir:``) rather than a registered one."""
    return canonical_stored_name(name).startswith(STORED_PREFIXES)


def canonical_stored_name(name: str) -> str:
    """``name`` with the prefix as moezoo spells it: ``hf_hub:user/repo`` is ``hf-hub:user/repo``."""
    rest = name.removeprefix("hf_hub:")
    return name if rest == name else f"hf-hub:{rest}"


def looks_like_hub_id(name: str) -> bool:
    """Whether ``name`` could be a Hub repository without its prefix: ``user/repo`` or ``user/repo@revision``."""
    return re.fullmatch(r"[\w.\-]+/[\w.\-]+(@[\w.\-/]+)?", name) is not None


def nearest(word: str, options: Iterable[str], n: int = 3) -> list[str]:
    """Up to ``n`` spellings close to ``word``, best first."""
    options = list(dict.fromkeys(map(str, options)))
    return difflib.get_close_matches(str(word), options, n=n, cutoff=0.45)


def did_you_mean(word: str, options: Iterable[str], n: int = 3) -> str:
    """`` Did you mean: a, b, c?`` or an empty string, ready to be appended to an error."""
    close = nearest(word, options, n)
    return f" Did you mean: {', '.join(close)}?" if close else ""


def natural_key(name: str) -> list[tuple[int, int | str]]:
    """Sort key under which ``layer2`` comes before ``layer10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name) if part]
