"""Searches of architectures."""

from __future__ import annotations

import statistics
from typing import Any

from card_tables.text import markdown


def edf_table(data: dict[str, Any]) -> str:
    """The errors of each design space."""
    head = [
        "design space",
        "designs",
        "epochs",
        "min error",
        "median",
        "mean",
        "MFLOPs per image",
        "minutes",
        "of processor time",
    ]
    rows = []
    for name, found in data["spaces"].items():
        errors, flops = found["errors"], found["flops"]
        figures = (min(errors), statistics.median(errors), statistics.fmean(errors))
        costs = f"{min(flops) / 1e6:.2f} to {max(flops) / 1e6:.2f}"
        worked = found.get("processor_seconds")
        minutes = [f"{found['seconds'] / 60:.1f}", "-" if worked is None else f"{worked / 60:.1f}"]
        shares = [f"{100 * figure:.1f} %" for figure in figures]
        rows.append([f"`{name}`", str(len(errors)), str(found["epochs"]), *shares, costs, *minutes])
    return markdown(head, rows)


def nas_table(data: dict[str, Any]) -> str:
    """Search by each sampler at equal numbers of trials, and which wins."""
    head = ["search", "best validation error", "test error of that design", "epochs trained", "seconds"]
    rows = [
        [
            name,
            *(_errors(100 * (1 - score) for score in found[key]) for key in ("val", "test")),
            f"{statistics.fmean(found['epochs']):.0f}",
            f"{statistics.fmean(found['seconds']):.0f}",
        ]
        for name, found in data["searches"].items()
    ]
    return f"{markdown(head, rows)}\n\n{verdict(data)}"


def verdict(data: dict[str, Any]) -> str:
    """Who wins, seed by seed on the validation images and on the mean of the test, in words."""
    (one, first), (other, second) = data["searches"].items()
    won = sum(a > b for a, b in zip(first["val"], second["val"], strict=True))
    lost = sum(a < b for a, b in zip(first["val"], second["val"], strict=True))
    seeds = len(first["val"])
    parts = []
    for what, key in (("validation", "val"), ("test", "test")):
        gap = 100 * (statistics.fmean(first[key]) - statistics.fmean(second[key]))
        name = (
            "neither is better"
            if abs(gap) < 0.005
            else f"{one if gap > 0 else other} is better by {abs(gap):.2f} points"
        )
        parts.append(f"on the {what} images {name} on average")
    trained = statistics.fmean(first["epochs"]) / statistics.fmean(second["epochs"])
    return (
        f"At {data['trials']} trials each, {parts[0]} (better in {won} of {seeds} seeds, worse in {lost}), and "
        f"{parts[1]}; {one} trains {trained:.2f} x the epochs of {other}."
    )


def _errors(percents: Any) -> str:
    values = list(percents)
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f} %{spread}"
