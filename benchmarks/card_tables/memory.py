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


def reid_memory_table(data: dict[str, Any]) -> str:
    """Time and memory of evaluations, and what the baseline's share of the time is."""
    rows = [
        [
            row["case"],
            f"{row['queries']:,} x {row['gallery']:,}",
            f"{row['mAP']:.2%}",
            f"{row['cpu_seconds']:.0f} s",
            f"{row['seconds']:.0f} s",
            f"{row['peak_gib']:.2f} GiB",
        ]
        for row in data["rows"]
    ]
    text = markdown(
        ["re-identification metrics", "queries x gallery", "mAP", "CPU time", "by the clock", "peak memory"],
        rows,
        right=5,
    )
    sorting = next(i for i, row in enumerate(data["rows"]) if "sorted whole" in row["case"])
    ours, theirs = data["rows"][sorting - 1 : sorting + 1]
    return (
        f"{text}\n\nAgainst sorting every row whole: {ours['cpu_seconds'] / theirs['cpu_seconds']:.2f} x the CPU time."
    )
