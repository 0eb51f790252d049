"""Differences from a reference."""

from __future__ import annotations

from typing import Any

from card_tables.text import markdown

COLUMNS = {
    "blocks": "blocks",
    "logits": "logits",
    "float64": "logits in float64",
    "losses": "losses",
    "gradients": "gradients",
}


def parity_table(data: dict[str, Any]) -> str:
    """Greatest absolute differences, and how many routing decisions differ."""
    head = ["case", *COLUMNS.values(), "other experts", "other drops"]
    rows = [
        [
            row["case"],
            *(_difference(row.get(key)) for key in COLUMNS),
            *("" if "of" not in row else f"{row[key]} of {row['of']:,}" for key in ("choices", "drops")),
        ]
        for row in data["rows"]
    ]
    return markdown(head, rows, right=len(head) - 1)


def _difference(value: float | None) -> str:
    return "" if value is None else f"{value:.0e}" if value else "0"
