"""Running a model over a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from moezoo.errors import InputError
from moezoo.eval.classification import Classification, classification_metrics
from moezoo.eval.routing import LayerLoad, LoadCounter
from moezoo.moe.record import record_routing


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found."""

    classification: Classification
    routing: tuple[LayerLoad, ...]
    """One entry per MoE layer; empty for a model without any."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return dataclasses.asdict(self)


def evaluate(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 128, label_names: Sequence[str] | None = None
) -> Evaluation:
    """Classify every image of ``dataset`` and report accuracy and routing.

    The model is run in evaluation mode where it is, and every module is left in the mode it was in.

    Args:
        model: (B, C, H, W) images to (B, classes) logits.
        dataset: Items ``(image, label)``.
        batch_size: Images per forward.
        label_names: Names of the classes, for the report.

    Raises:
        InputError: The data set is empty, or a label is not among the model's classes.
    """
    logits, labels, routing = predict(model, dataset, batch_size=batch_size)
    return Evaluation(classification_metrics(logits, labels, label_names), routing)


def predict(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 128
) -> tuple[Tensor, Tensor, tuple[LayerLoad, ...]]:
    """(N, classes) logits and (N,) labels, on the CPU in the data set's order, and the experts' load."""
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise InputError("the data set is empty")
    device = next(model.parameters()).device
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    logits: list[Tensor] = []
    labels: list[Tensor] = []
    load = LoadCounter()
    try:
        with torch.no_grad():  # what a model caches meanwhile must stay usable in training
            for images, batch_labels in DataLoader(dataset, batch_size=batch_size):
                with record_routing(model) as records:
                    logits.append(model(images.to(device)).float().cpu())
                load.add(records)
                labels.append(batch_labels)
    finally:
        for module, training in modes:
            module.training = training
    return torch.cat(logits), torch.cat(labels), load.report()
