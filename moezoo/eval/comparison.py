"""Several models of one task side by side: how good they are, what an image costs them, and how long they take."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from moezoo.errors import ConfigError
from moezoo.eval.batches import first_images
from moezoo.eval.evaluate import Evaluation, evaluate
from moezoo.eval.spread import Spread
from moezoo.measure.latency import Latency, latency
from moezoo.measure.per_image import flops_per_image
from moezoo.moe.checks import check_int


@dataclass(frozen=True)
class ComparedModel:
    """One of them."""

    title: str
    evaluation: Evaluation
    parameters: int
    flops_per_image: Spread
    """Forward FLOPs (2 x multiply-adds) by each image's own routing."""
    without_encoder: Spread
    """The same without what is spent on choosing."""
    latency: Latency | None
    """Milliseconds of a forward of :attr:`Comparison.latency_batch` images; its ``ratio`` is to the baseline's time."""

    setting: None = None
    """As of a :class:`~moezoo.eval.FrontPoint`: nothing was turned."""

    @property
    def accuracy(self) -> float:
        """Top-1."""
        assert self.evaluation.classification is not None
        return self.evaluation.classification.top1

    @property
    def ratio(self) -> Spread | None:
        """Share of an image's tokens that went to the big expert; ``None`` of a model that has no such choice."""
        return self.evaluation.budget.ratio if self.evaluation.budget is not None else None

    @property
    def flops(self) -> float:
        """Median FLOPs of an image."""
        return self.flops_per_image.p50

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        timed = None
        if self.latency is not None:
            timed = {k: v for k, v in dataclasses.asdict(self.latency).items() if k != "samples"}
        return {
            "parameters": self.parameters,
            "flops_per_image": dataclasses.asdict(self.flops_per_image),
            "without_encoder": dataclasses.asdict(self.without_encoder),
            "latency": timed,
            **self.evaluation.to_dict(),
        }


@dataclass(frozen=True)
class Comparison:
    """Models on the same images."""

    models: tuple[ComparedModel, ...]
    latency_batch: int
    """Images per forward that was timed; 0 if none was."""
    baseline: str | None
    """The title whose time the others' are divided by."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data, the models by their titles."""
        return {
            "latency_batch": self.latency_batch,
            "baseline": self.baseline,
            "models": {model.title: model.to_dict() for model in self.models},
        }


def compare_models(
    models: Mapping[str, nn.Module],
    dataset: Dataset,
    *,
    label_names: Sequence[str] | None = None,
    batch_size: int = 128,
    num_workers: int = 0,
    metrics: Sequence[str] | None = (),
    latency_batch: int = 64,
    rounds: int = 20,
    baseline: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Evaluate every model, then time all of them in interleaved rounds.

    Args:
        models: By title. Run in evaluation mode, and left as they were.
        dataset: Items ``(image, label)``.
        label_names: Names of the classes, for the reports.
        batch_size: Images per forward of the evaluation.
        num_workers: Processes that read the images; 0 reads them here.
        metrics: As of :func:`evaluate`.
        latency_batch: Images per forward that is timed, fewer where the data set has fewer; 0 times nothing.
        rounds: Timed forwards of each model.
        baseline: The title whose time the others' are divided by.
        progress: Called after every batch with its number of images; every model reads all of them.

    Raises:
        ConfigError: ``models`` is empty, ``baseline`` is none of them, or a number is out of range.
        InputError: As of :func:`evaluate`.
    """
    check_int("latency_batch", latency_batch, low=0)
    if not models:
        raise ConfigError("models is empty: there is nothing to compare.")
    latency_batch = min(latency_batch, len(dataset))  # type: ignore[arg-type]
    images = first_images(dataset, max(latency_batch, 1))
    found = {
        title: evaluate(
            model,
            dataset,
            batch_size=batch_size,
            num_workers=num_workers,
            label_names=label_names,
            metrics=metrics,
            progress=progress,
        )
        for title, model in models.items()
    }
    times = latency(models, images, rounds=rounds, baseline=baseline) if latency_batch else {}
    compared = (
        ComparedModel(
            title,
            found[title],
            sum(p.numel() for p in model.parameters()),
            *_costs(model, found[title], images[:1]),
            times.get(title),
        )
        for title, model in models.items()
    )
    return Comparison(tuple(compared), latency_batch, baseline)


def _costs(model: nn.Module, report: Evaluation, images: Tensor) -> tuple[Spread, Spread]:
    """With and without the encoder; where nothing is chosen, every image costs what one does."""
    if report.budget is not None:
        return report.budget.flops_per_image, report.budget.without_encoder
    each = flops_per_image(model, images)
    return Spread.of(each.flops), Spread.of(each.without_encoder)
