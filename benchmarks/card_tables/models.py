"""Trained models side by side."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from card_tables.text import deviation, markdown, p_value, spread


def comparison_table(data: dict[str, Any]) -> str:
    """A model beside its dense twin: accuracy over the seeds and cost."""
    models: dict[str, dict[str, Any]] = data["models"]
    seeds = len(data["seeds"])

    def row(label: str, text: Callable[[dict[str, Any]], str]) -> list[str]:
        return [label, *map(text, models.values())]

    def latency(model: dict[str, Any]) -> str:
        low, high = model["latency_quartiles"]
        return f"{model['latency_ratio']:.2f} x ({low:.2f} to {high:.2f})"

    return markdown(
        [f"{data['data']}, {data['images']} test images, {seeds} seeds", *models],
        [
            row("test accuracy, mean (lowest to highest)", lambda model: spread(model["test_accuracy"])),
            row("parameters", lambda model: f"{model['parameters']:,}"),
            row("active per token", lambda model: f"{model['active']:,}"),
            row("executed FLOPs per image", lambda model: f"{model['mflops']:.1f} M"),
            row(f"latency over the twin's, {data['batch']} images (quartiles)", latency),
        ],
    )


def seeds_table(data: dict[str, Any]) -> str:
    """The accuracy of every seed, a column per model."""
    models: dict[str, dict[str, Any]] = data["models"]
    rows = [
        [f"seed {seed}", *(f"{model['test_accuracy'][i]:.2%}" for model in models.values())]
        for i, seed in enumerate(data["seeds"])
    ]
    rows.append(["mean (lowest to highest)", *(spread(model["test_accuracy"]) for model in models.values())])
    return markdown([f"{data['data']}, {data['images']} test images", *models], rows)


SCORES = {
    "accuracy": "accuracy, image only",
    "zero_shot": "accuracy, zero-shot",
    "image_to_text_r1": "R@1, image to text",
    "text_to_image_r1": "R@1, text to image",
    "exact_match": "captions that are true word for word",
    "label_text_upper_bound": "`label_text_upper_bound` (no accuracy)",
}
"""Rows of a table of variants, where they have a figure; the first one is tested."""


def variants_table(data: dict[str, Any]) -> str:
    """A model beside itself without parts of what it learns from: mean and standard deviation over the seeds."""
    variants: dict[str, dict[str, Any]] = data["variants"]

    def row(label: str, key: str, text: Callable[[Sequence[Any]], str]) -> list[str]:
        given = [v.get(key) for v in variants.values()]
        return [label, *("-" if values is None or None in values else text(values) for values in given)]

    first = next(iter(variants.values()))
    rows = [row(label, key, deviation) for key, label in SCORES.items() if first[key][0] is not None]
    tested = f"p against {next(iter(variants))}: {SCORES[data['tested']]}"
    rows.append([tested, *(p_value(v.get("p_value")) for v in variants.values())])
    rows += [
        row("load entropy of the experts (1 is even)", "load_entropy", lambda v: f"{statistics.mean(v):.3f}"),
        ["dead experts, all seeds", *map(dead, variants.values())],
        row("executed FLOPs per image, text left out", "mflops", lambda v: f"{statistics.mean(v):.1f} M"),
        row("parameters", "parameters", lambda v: f"{v[0]:,}"),
        row("active per token", "active", lambda v: f"{v[0]:,}"),
    ]
    images, seeds = first["test_images"][0], len(data["seeds"])
    head = f"{data['data']}, {images} test images, {seeds} seed{'s' * (seeds > 1)}"
    table_ = markdown([head, *variants], rows)
    return f"{table_}\n\nMean ± standard deviation; p: {data['test']}."


def dead(variant: dict[str, Any]) -> str:
    return f"{sum(variant['dead_experts'])} of {sum(variant['experts'])}" if variant["experts"][0] else "-"


def leakage_table(data: dict[str, Any]) -> str:
    """Accuracies on images of noise with true sentences, beside the test images'."""
    keys = ("image_only", "zero_shot", "label_text_upper_bound")
    head = [f"`{data['model']}`, chance {data['chance']:.0%}", *(SCORES.get(k, "accuracy, image only") for k in keys)]
    return markdown(head, [[row["images"], *(f"{row[key]:.2%}" for key in keys)] for row in data["rows"]])
