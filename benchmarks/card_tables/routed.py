"""Models that choose where to compute."""

from __future__ import annotations

import statistics
from typing import Any

from card_tables.text import deviation, flops, markdown


def routed_table(data: dict[str, Any]) -> str:
    """Models that choose where to compute, beside those that do not: a row per variant."""
    variants: dict[str, dict[str, Any]] = data["variants"]
    first = next(iter(variants.values()))
    images, seeds = first["test_images"][0], len(data["seeds"])

    def spent(variant: dict[str, Any], key: str) -> str:
        middle, high = (statistics.mean(each[of] for each in variant[key]) for of in ("p50", "p95"))
        return f"{flops(middle)} / {flops(high)}"

    def share(variant: dict[str, Any]) -> str:
        return f"{statistics.mean(each['p50'] for each in variant['flops']) / data['full_flops']:.0%}"

    def ratio(variant: dict[str, Any]) -> str:
        if None in variant["ratio"]:
            return "-"
        mean, sd = (statistics.mean(each[of] for each in variant["ratio"]) for of in ("mean", "sd"))
        return f"{mean:.1%} ± {sd:.1%}"

    def box(variant: dict[str, Any]) -> str:
        if None in variant["box"]:
            return "-"
        return f"{statistics.mean(each['lift'] for each in variant['box']):.1f} x"

    boxes = any(None not in variant["box"] for variant in variants.values())
    head = [f"{data['data']}, {images} test images, {seeds} seed{'s' * (seeds > 1)}", "accuracy", "over full, points"]
    head += ["cells through the big MLP", "FLOPs per image, p50 / p95", "of full", "the same without the encoder"]
    head += ["in the digit's box, over chance"] if boxes else []
    rows = [
        [
            name,
            deviation(variant["accuracy"]),
            "-" if not any(variant["over_full"]) else f"{100 * statistics.mean(variant['over_full']):+.2f}",
            ratio(variant),
            spent(variant, "flops"),
            share(variant),
            spent(variant, "without_encoder"),
            *([box(variant)] if boxes else []),
        ]
        for name, variant in variants.items()
    ]
    note = "Mean ± standard deviation: of accuracies over the seeds, of cells over the images."
    return f"{markdown(head, rows, right=len(head) - 1)}\n\n{note}"


def dial_table(data: dict[str, Any]) -> str:
    """One trained model at several budgets."""
    seeds = len(data["seeds"])
    head = [f"{data['data']}, {data['test_images']} test images, {seeds} seed{'s' * (seeds > 1)}"]
    head += ["cells through the big MLP", "accuracy", "FLOPs per image, p50"]
    points = [("as trained", data["trained"]), *((f"budget {p['budget']:g}", p) for p in data["points"])]
    rows = [
        [
            name,
            f"{statistics.mean(point['ratio']):.1%}",
            deviation(point["accuracy"]),
            flops(statistics.mean(point["flops"])),
        ]
        for name, point in points
    ]
    return markdown(head, rows, right=3)
