"""What the ranks of the tests count of their own traffic."""

from __future__ import annotations

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))


def count(spreads: list[tuple[str, int]]) -> list[dict[str, int]]:
    from scaling_measured import measure

    return [measure(*spread) for spread in spreads]


def expect(spreads: list[tuple[str, int]], world: int) -> list[dict[str, int]]:
    from scaling_measured import expected

    return [expected(*spread, world) for spread in spreads]
