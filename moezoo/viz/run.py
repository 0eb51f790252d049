"""The pictures of a run, in its folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from torch.utils.data import Dataset

from moezoo.data import Splits
from moezoo.errors import ConfigError
from moezoo.eval import Evaluation
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.names import did_you_mean
from moezoo.train.result import TrainingResult
from moezoo.viz.confusion import confusion_figure
from moezoo.viz.curves import training_figure
from moezoo.viz.load import load_figure
from moezoo.viz.reliability import reliability_figure
from moezoo.viz.robustness import robustness_figure
from moezoo.viz.routing import routing_figure
from moezoo.viz.shares import shares_figure
from moezoo.viz.style import save_figure

LAYERS = 3
"""Without a choice, the routing picture shows at most this many of the last layers."""


def run_pictures(
    model: nn.Module,
    splits: Splits,
    results: Mapping[str, TrainingResult],
    folder: Path,
    *,
    images: int = 8,
    layer: str | None = None,
    dpi: int = 160,
) -> list[Path]:
    """Write ``training.png``, ``confusion.png`` and, with MoE layers, ``expert_load.png``, ``routing.png``.

    Args:
        model: The trained model of the first of ``results``.
        splits: What it was trained on.
        results: Title to result; all of them are in the training picture, the first in the others.
        folder: Where the files go.
        images: Test images in the routing picture.
        layer: MoE layer in the routing picture; by default the last three.
        dpi: Pixels per inch.
    """
    result = next(iter(results.values()))
    figures: dict[str, Figure] = {
        "training": training_figure({title: r.history for title, r in results.items()}),
        "confusion": confusion_figure(result.test.classification, "Confusion on the test images"),
    }
    if result.test.routing:
        figures["expert_load"] = load_figure(result.history)
        figures["routing"] = dataset_routing_figure(model, splits, images=images, layer=layer)
    return [save_figure(figure, folder / f"{name}.png", dpi=dpi) for name, figure in figures.items()]


def evaluation_pictures(report: Evaluation, folder: Path, *, title: str, dpi: int = 160) -> list[Path]:
    """Write ``confusion.png``, ``reliability.png`` and, where there is something to show, ``expert_load.png`` and
    ``robustness.png``.

    Args:
        report: Of :func:`moezoo.eval.evaluate`.
        folder: Where the files go.
        title: What was evaluated, above the confusion matrix.
        dpi: Pixels per inch.
    """
    figures: dict[str, Figure] = {"confusion": confusion_figure(report.classification, title)}
    if report.classification.reliability:
        figures["reliability"] = reliability_figure(report.classification)
    if report.routing:
        figures["expert_load"] = shares_figure(report.routing)
    if report.robustness is not None:
        figures["robustness"] = robustness_figure(report.robustness)
    return [save_figure(figure, folder / f"{name}.png", dpi=dpi) for name, figure in figures.items()]


def dataset_routing_figure(model: nn.Module, splits: Splits, *, images: int = 8, layer: str | None = None) -> Figure:
    """:func:`routing_figure` of test images, one class after the other, titled with true and predicted class.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model, or the model has none whose tokens lie on a grid.
    """
    batch, labels = _examples(splits.test, images)
    device, training = next(model.parameters()).device, model.training
    model.eval()
    try:
        with torch.no_grad(), record_routing(model) as records:
            predicted = model(batch.to(device)).argmax(-1).tolist()
    finally:
        model.train(training)
    chosen = _choose(records, layer)
    names = splits.label_names
    titles = [
        names[true] if true == guess else f"{names[true]} read as {names[guess]}"
        for true, guess in zip(labels, predicted, strict=True)
    ]
    wrong = [true != guess for true, guess in zip(labels, predicted, strict=True)]
    return routing_figure(splits.to_pixels(batch), chosen, titles=titles, wrong=wrong)


def _choose(records: list[RoutingRecord], layer: str | None) -> list[RoutingRecord]:
    names = [record.name for record in records]
    if layer is not None:
        found = [record for record in records if record.name == layer or record.name.startswith(f"{layer}.")]
        if not found:
            raise ConfigError(
                f"layer={layer!r} is no MoE layer of the model.{did_you_mean(layer, names)} "
                f"Layers: {', '.join(names) or 'none'}."
            )
        return found
    gridded = [record for record in records if record.grid is not None]
    if not gridded:
        raise ConfigError(
            f"the model has no MoE layer whose tokens lie on a grid. Layers: {', '.join(names) or 'none'}."
        )
    return gridded[-LAYERS:]


def _examples(dataset: Dataset, count: int) -> tuple[torch.Tensor, list[int]]:
    """The first images of the data set, taking the classes in turn so that all of them are seen."""
    by_class: dict[int, list[torch.Tensor]] = {}
    for i in range(min(len(dataset), 50 * count)):  # type: ignore[arg-type]
        image, label = dataset[i]
        by_class.setdefault(label, []).append(image)
    turns = [(turn, label) for label, images in by_class.items() for turn in range(len(images))]
    picked = sorted(turns)[:count]
    return torch.stack([by_class[label][turn] for turn, label in picked]), [label for _, label in picked]
