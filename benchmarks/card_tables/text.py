"""Markdown, and figures in words."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: int = 0) -> str:
    """A table whose last ``right`` columns are aligned to the right."""
    rule = ["---"] * (len(head) - right) + ["---:"] * right
    lines = [f"| {' | '.join(cells)} |" for cells in (head, *rows)]
    return "\n".join([lines[0], f"|{'|'.join(rule)}|", *lines[1:]])


def spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2%} ({min(values):.2%} to {max(values):.2%})"


def deviation(values: Sequence[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.2%}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2%}{deviation}"


def flops(value: float) -> str:
    return f"{value / 1e9:.2f} G" if value >= 1e9 else f"{value / 1e6:.1f} M"


def millions(row: dict[str, Any]) -> str:
    return f"{row['parameters'] / 1e6:.1f} M"


def p_value(value: float | None) -> str:
    return "-" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
