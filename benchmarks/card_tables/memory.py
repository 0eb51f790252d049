"""Memory of training steps."""

from __future__ import annotations

from typing import Any

from card_tables.text import markdown, millions


def memory_table(data: dict[str, Any]) -> str:
    """The most memory that a step held."""
    rows = [
        [row["case"], *(["", row["failed"]] if "failed" in row else [millions(row), f"{row['peak_gib']:.1f} GiB"])]
        for row in data["rows"]
    ]
    return markdown([data["title"], "parameters", "peak memory"], rows, right=2)


def saved_table(data: dict[str, Any]) -> str:
    """What a step kept for its backward pass, and the most memory it held."""

    def cells(row: dict[str, Any]) -> list[str]:
        if "failed" in row:
            return ["", "", row["failed"]]
        return [millions(row), f"{row['saved_mib']:.0f} MiB", f"{row['peak_gib']:.1f} GiB"]

    text = markdown(
        [data["title"], "parameters", "saved for backward", "peak memory"],
        [[row["case"], *cells(row)] for row in data["rows"]],
        right=3,
    )
    pair = data["rows"][:2]  # the same model with and without recomputing
    if len(pair) < 2 or any("failed" in row for row in pair):
        return text
    return f"{text}\n\nKept by recomputing: {pair[0]['saved_mib'] / pair[1]['saved_mib']:.2f} x the bytes."
