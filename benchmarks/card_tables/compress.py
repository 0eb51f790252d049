"""What int8 weights and pruning cost trained models."""

from __future__ import annotations

from typing import Any

from card_tables.text import markdown


def compress_table(data: dict[str, Any]) -> str:
    """A line for each version of each model."""
    head = [
        "model, version",
        "file",
        "times smaller",
        "times faster (quartiles)",
        "MFLOPs an image",
        "score",
        "tokens to the same experts",
    ]
    rows = [_row(name, row, model) for name, model in data["models"].items() for row in model["rows"]]
    return markdown(head, rows, right=6)


def _row(name: str, row: dict[str, Any], model: dict[str, Any]) -> list[str]:
    first = row is model["rows"][0]
    fast, low, high = row["speedup"]
    same = row["same_experts"]
    return [
        f"`{name}`, {row['name']}" if first else row["name"],
        f"{row['file_bytes'] / 1e6:.3g} MB",
        "" if first else f"{row['times_smaller']:.2f}",
        f"{row['milliseconds']:.2f} ms" if first else f"{fast:.2f} ({low:.2f} to {high:.2f})",
        f"{row['flops'] / 1e6:.3g}",
        f"{100 * row['score']:.2f} % {model['score']}" if first else f"{100 * row['score']:.2f} %",
        "" if first or same is None else f"{100 * same:.1f} %",
    ]
