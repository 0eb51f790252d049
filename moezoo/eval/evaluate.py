"""Running a model over a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from moezoo.eval.answers import logits_of
from moezoo.eval.batches import labelled_batches
from moezoo.eval.budget import BudgetCounter, BudgetReport
from moezoo.eval.captions import CaptionReport
from moezoo.eval.classification import Classification, classification_metrics
from moezoo.eval.metrics import compute_metrics
from moezoo.eval.plain import plain
from moezoo.eval.reid.report import ReidReport
from moezoo.eval.retrieval import Retrieval
from moezoo.eval.robustness import Robustness
from moezoo.eval.routing import LayerLoad, LoadCounter
from moezoo.eval.text_report import TextReport
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate`, :func:`evaluate_retrieval`, :func:`evaluate_captions` or :func:`evaluate_reid` found."""

    classification: Classification | None = None
    """Of the images alone, whatever the model also reads."""
    routing: tuple[LayerLoad, ...] = ()
    """One entry per MoE layer; empty for a model without any."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The registered metrics that were asked for."""
    robustness: Robustness | None = None
    text: TextReport | None = None
    """Of a classifier that also reads text."""
    retrieval: Retrieval | None = None
    captions: CaptionReport | None = None
    budget: BudgetReport | None = None
    """Of a model that gives every token to a big or a small expert."""
    reid: ReidReport | None = None
    """Of a data set of identities to be found again."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data; a figure that does not exist (NaN, infinity) is ``None``."""
        data = dataclasses.asdict(self)
        for part in ("classification", "text", "retrieval", "captions", "budget", "reid"):
            if data[part] is None:  # another task, or another kind of model
                del data[part]
        return plain(data)


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    label_names: Sequence[str] | None = None,
    metrics: Sequence[str] | None = (),
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Classify every image of ``dataset`` and report accuracy and routing, and what each image cost where it may cost
    more or less.

    The model is run in evaluation mode where it is, and every module is left in the mode it was in.

    Args:
        model: (B, C, H, W) images to (B, classes) logits, or to a mapping that has them as ``logits``.
        dataset: Items ``(image, label)``. Where it tells the places of its objects by ``box(index)``, the report
            compares them with those that a big expert was spent on.
        batch_size: Images per forward.
        num_workers: Processes that read the images; 0 reads them here.
        label_names: Names of the classes, for the report.
        metrics: Names of registered metrics to report too; ``None`` takes all of them.
        progress: Called after every batch with its number of images.

    Raises:
        InputError: The data set is empty, a label is not among the model's classes, or the model does not answer with
            (B, classes) logits.
        UnreadableImage: A file of the data set cannot be read.
    """
    budget = BudgetCounter(model, dataset)
    logits, labels, routing = _predict(model, dataset, batch_size, num_workers, progress, budget.add)
    return Evaluation(
        classification=classification_metrics(logits, labels, label_names),
        routing=routing,
        metrics={} if metrics == () else compute_metrics(logits, labels, metrics),
        budget=budget.report(),
    )


def predict(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor, tuple[LayerLoad, ...]]:
    """(N, classes) logits and (N,) labels, on the CPU in the data set's order, and the experts' load.

    Arguments as of :func:`evaluate`.
    """
    return _predict(model, dataset, batch_size, num_workers, progress)


def _predict(
    model: nn.Module,
    dataset: Dataset,
    batch_size: int,
    num_workers: int,
    progress: Callable[[int], None] | None,
    see: Callable[[Sequence[RoutingRecord], Tensor], None] | None = None,
) -> tuple[Tensor, Tensor, tuple[LayerLoad, ...]]:
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    load = LoadCounter()
    with evaluating(model):
        for images, batch_labels in labelled_batches(dataset, batch_size, num_workers):
            with record_routing(model) as records:
                logits.append(logits_of(model, images))
            load.add(records)
            if see is not None:
                see(records, images)
            labels.append(batch_labels)
            if progress is not None:
                progress(len(images))
    return torch.cat(logits), torch.cat(labels), load.report()
