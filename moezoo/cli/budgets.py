"""``moezoo eval --budgets`` and ``--latency``: what a trained model's accuracy costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from torch.utils.data import Dataset

    from moezoo.eval import Evaluation

LATENCY_BATCH = 64
"""Images per forward that is timed; fewer where there are fewer."""


def parse_budgets(text: str | None) -> tuple[float, ...]:
    """``0.1,0.25,1`` as numbers.

    Raises:
        ConfigError: A part is no number from 0 to 1, or given twice.
    """
    from moezoo.errors import ConfigError
    from moezoo.eval.front import check_budgets

    if text is None:
        return ()
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(
            f"--budgets {text!r} is not allowed: it takes shares from 0 to 1 with commas between, as 0.1,0.25,1."
        ) from None
    if len(set(values)) < len(values):
        raise ConfigError(f"--budgets {text!r} is not allowed: it has the same share twice.")
    return check_budgets(values)  # type: ignore[return-value]


def check_dial(option: str, name: str, model: nn.Module) -> None:
    """Raise :class:`ConfigError` if ``model`` has no budget to set."""
    from moezoo.errors import ConfigError
    from moezoo.measure.image_cost import split_layers

    if not split_layers(model):
        raise ConfigError(f"{option} is of models that choose between a big and a small expert, and {name!r} does not")


def with_latency(report: Evaluation, model: nn.Module, dataset: Dataset) -> Evaluation:
    """``report`` with the time of a batch, beside that with every token to the big expert."""
    import dataclasses

    from moezoo.eval import budget_latency
    from moezoo.eval.batches import first_images

    assert report.budget is not None
    timed = budget_latency(model, first_images(dataset, LATENCY_BATCH))
    return dataclasses.replace(report, budget=dataclasses.replace(report.budget, latency=timed))


def front_pictures(fronts: dict[str, Any], points: dict[str, Any], reference: str | None, folder: Any, dpi: int) -> Any:
    """``front.png``: accuracy against FLOPs; a list of its path."""
    from moezoo.viz import front_figure
    from moezoo.viz.run import save_figures

    return save_figures({"front": front_figure(fronts, points, reference=reference)}, folder, dpi=dpi)
