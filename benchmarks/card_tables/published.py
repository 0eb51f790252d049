"""Sizes of published models, ours beside their papers'."""

from __future__ import annotations

from typing import Any

from card_tables.text import markdown


def published_table(data: dict[str, Any]) -> str:
    """Parameters, and FLOPs per image: as executed, and with what experts compute of room that no token took."""
    head = ["the paper's model", "ours", "source and why a figure differs", "parameters", "published", "a token's"]
    head += ["published", "FLOPs", "with full buffers", "published"]
    cells = [
        [
            row["paper"],
            f"`{row['model']}`",
            f"{row['source']}{'; ' if row['note'] else ''}{row['note']}",
            f"{row['parameters'] / 1e6:,.1f} M",
            _beside(row["published_parameters"], row["parameters"], 1e6, "M"),
            f"{row['active'] / 1e6:,.1f} M",
            _beside(row["published_active"], row["active"], 1e6, "M"),
            f"{row['flops'] / 1e9:,.2f} G",
            _full(row),
            _share(row) or _beside(row["published_flops"], row["flops"], 1e9, "G"),
        ]
        for row in data["rows"]
    ]
    return markdown(head, cells, right=7)


def _beside(published: float | None, ours: float, unit: float, letter: str) -> str:
    """The paper's figure, and how far ours is from it."""
    if published is None:
        return "-"
    return f"{published / unit:,.1f} {letter} ({ours / published - 1:+.2%})"


def _full(row: dict[str, Any]) -> str:
    share = f" ({row['share']:.2f} %)" if "share" in row else ""
    return f"{row['full_flops'] / 1e9:,.2f} G{share}"


def _share(row: dict[str, Any]) -> str:
    if "published_share" not in row:
        return ""
    return f"{row['published_share']:g} % ({row['share'] / row['published_share'] - 1:+.2%})"
