"""What the nursery's children do of a search of architectures."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "search"))  # a nursery's child knows its own folder alone
import search_toys

from moezoo.search import ArchitectureSearch, compare_spaces

search_toys.add()
SAME = {"epochs": 3}


def edf(out: str) -> None:
    """Three designs, or what is left of them."""
    compare_spaces("tiny", out, samples=3, **SAME)


def nas(out: str, resume: bool) -> None:
    """Four trials, or what is left of them."""
    ArchitectureSearch("tiny", trials=4, out=out, resume=resume, **SAME).search()
