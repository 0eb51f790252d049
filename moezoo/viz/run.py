"""The pictures of a run, in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from torch import nn

from moezoo.data import CaptionedSplits, Splits
from moezoo.eval import Evaluation
from moezoo.train.result import EpochMetrics, TrainingResult
from moezoo.viz.confusion import confusion_figure
from moezoo.viz.curves import training_figure
from moezoo.viz.figures import AnySplits, model_figures
from moezoo.viz.history import history_figures
from moezoo.viz.layers import choose_records
from moezoo.viz.load import load_figure
from moezoo.viz.look import look
from moezoo.viz.reid import reid_report_figures
from moezoo.viz.reliability import reliability_figure
from moezoo.viz.robustness import robustness_figure
from moezoo.viz.routing import routing_figure
from moezoo.viz.shares import shares_figure
from moezoo.viz.style import Picture, save_figure


def run_pictures(
    model: nn.Module,
    splits: AnySplits,
    results: Mapping[str, TrainingResult],
    folder: Path,
    *,
    images: int = 8,
    layer: str | None = None,
    language: str = "en",
    dpi: int = 160,
) -> list[Path]:
    """Write ``training.png``, ``confusion.png`` of classes, ``cmc.png`` of identities, with MoE layers
    ``expert_load.png`` and ``expert_balance.png``, and all that :func:`model_figures` draws, each under its name.

    Args:
        model: The trained model of the first of ``results``.
        splits: What it was trained on.
        results: Title to result; all of them are in the training picture, the first in the others.
        folder: Where the files go.
        images: Test images in the pictures.
        layer: MoE layer in the pictures of routing; by default the last three.
        language: Of the sentences about classes.
        dpi: Pixels per inch.
    """
    title, result = next(iter(results.items()))
    figures: dict[str, Figure] = {**history_figures(title, result.history)}
    figures["training"] = training_figure({title: r.history for title, r in results.items()})
    if result.test.classification is not None:
        figures["confusion"] = confusion_figure(result.test.classification, "Confusion on the test images")
    figures |= reid_report_figures(result.test, title)
    figures |= model_figures(model, splits, images=images, layer=layer, language=language)
    return save_figures(figures, folder, dpi=dpi)


def evaluation_pictures(report: Evaluation, folder: Path, *, title: str, dpi: int = 160) -> list[Path]:
    """Write, each where there is something to show, ``confusion.png``, ``reliability.png``, ``expert_load.png``,
    ``robustness.png`` and ``cmc.png``.

    Args:
        report: Of :func:`moezoo.eval.evaluate` and its like.
        folder: Where the files go.
        title: What was evaluated, above the confusion matrix.
        dpi: Pixels per inch.
    """
    figures: dict[str, Figure] = {}
    if report.classification is not None:
        figures["confusion"] = confusion_figure(report.classification, title)
        if report.classification.reliability:
            figures["reliability"] = reliability_figure(report.classification)
    if report.routing:
        figures["expert_load"] = shares_figure(report.routing)
    if report.robustness is not None:
        figures["robustness"] = robustness_figure(report.robustness)
    figures |= reid_report_figures(report, "as found")
    return save_figures(figures, folder, dpi=dpi)


def documented_pictures(
    model: nn.Module,
    splits: Splits | CaptionedSplits,
    report: Evaluation,
    folder: Path,
    *,
    history: Sequence[EpochMetrics] | None = None,
    images: int = 8,
    layer: str | None = None,
    language: str = "en",
    dpi: int = 160,
) -> list[Path]:
    """The pictures under the names that Diff-MoE's document gives them; what there is nothing to show in is left out.

    ``training_curves``, ``predictions_grid``, ``confusion_matrix``, ``expert_allocation`` (over the epochs, without
    them over the layers), ``expert_tokens`` (over classes, without them over the layers), ``router_decisions``,
    ``expert_regions``, ``attention_weights`` and ``image_text``.

    Args:
        model: Run in evaluation mode, and left as it was.
        splits: What it was trained on.
        report: Of its test.
        folder: Where the files go.
        history: The epochs of its training; ``None`` if it was only tested.
        images: Test images in the pictures.
        layer: MoE layer in the pictures of routing; by default the last three.
        language: Of the sentences about classes.
        dpi: Pixels per inch.
    """
    figures: dict[str, Figure] = {}
    if history:
        figures["training_curves"] = training_figure({splits.name: history})
    if report.classification is not None:
        figures["confusion_matrix"] = confusion_figure(report.classification, "Confusion on the test images")
    if report.routing:
        seen = history is not None and len(history) > 0 and bool(history[0].routing)
        figures["expert_allocation"] = load_figure(history or ()) if seen else shares_figure(report.routing)
        figures["expert_tokens"] = shares_figure(report.routing)
    names = {
        "predictions": "predictions_grid",
        "routing": "router_decisions",
        "expert_regions": "expert_regions",
        "expert_classes": "expert_tokens",
        "attention": "attention_weights",
        "image_text": "image_text",
    }
    drawn = model_figures(model, splits, images=images, layer=layer, language=language)
    return save_figures(
        {**figures, **{names.get(name, name): figure for name, figure in drawn.items()}}, folder, dpi=dpi
    )


def dataset_routing_figure(
    model: nn.Module, splits: Splits | CaptionedSplits, *, images: int = 8, layer: str | None = None
) -> Picture:
    """:func:`routing_figure` of test images: classes in turn, with true and predicted class; or with their sentences.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model, or the model has none whose tokens lie on a grid.
    """
    seen = look(model, splits, images)
    return routing_figure(seen.pixels, choose_records(model, seen.records, layer), titles=seen.titles, wrong=seen.wrong)


def save_figures(figures: Mapping[str, Figure], folder: Path, *, dpi: int = 160) -> list[Path]:
    """Write each figure as a PNG of its name; returns the paths."""
    return [save_figure(figure, folder / f"{name}.png", dpi=dpi) for name, figure in figures.items()]
