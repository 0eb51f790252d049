"""Further metrics by name: functions of all logits and labels, which ``moezoo eval`` reports beside its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from moezoo.errors import RegistrationError
from moezoo.eval.answers import answered, check_answers
from moezoo.parts import metrics

F = TypeVar("F", bound=Callable[[Tensor, Tensor], Any])


def register_metric(name: str) -> Callable[[F], F]:
    """Decorator that makes a function's metric known as ``name``.

    The function takes (N, C) float32 logits, all finite probabilities, and (N,) int64 labels, both on the CPU, and
    returns a number or a mapping of names to numbers.

    Raises:
        RegistrationError: ``name`` is taken or malformed.
    """
    return metrics.register(name)


def compute_metrics(logits: Tensor, labels: Tensor, names: Sequence[str] | None = None) -> dict[str, float]:
    """Registered metrics as plain numbers; those of a mapping are called ``name.key``.

    Args:
        logits: (N, C). Rows without an answer (NaN) are left out; where none has one, no metric is computed.
        labels: (N,) true classes.
        names: Which ones; by default all that are registered.

    Raises:
        UnknownModelError: No such metric; the message has the nearest spelling.
        RegistrationError: A metric returned something else than numbers.
    """
    chosen = {name: metrics.get(name) for name in (metrics if names is None else names)}
    check_answers(logits, labels)
    logits, labels = logits.detach().float().cpu(), labels.cpu().long()
    finite = answered(logits)
    if not finite.any():
        return {}
    found: dict[str, float] = {}
    for name, metric in chosen.items():
        result = metric(logits[finite], labels[finite])
        parts = {f"{name}.{key}": value for key, value in result.items()} if isinstance(result, Mapping) else {}
        for key, value in (parts or {name: result}).items():
            try:
                found[key] = float(value)
            except (TypeError, ValueError):
                raise RegistrationError(
                    f"metric {name!r} returned {value!r:.80}; it must return a number or a mapping of names to numbers"
                ) from None
    return found


def balanced_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes that occur of the share of a class that is right: rare classes count like common ones."""
    from sklearn.metrics import recall_score

    # scikit-learn's balanced_accuracy_score warns of predicted classes that do not occur.
    return float(recall_score(labels, logits.argmax(-1), labels=labels.unique(), average="macro", zero_division=0))


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean F1 over the classes that occur."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, logits.argmax(-1), labels=labels.unique(), average="macro", zero_division=0))


def brier_score(logits: Tensor, labels: Tensor) -> float:
    """Mean squared distance of the probabilities from the truth: 0 is sure and right, 2 sure and wrong."""
    probs = logits.softmax(-1)
    truth = torch.nn.functional.one_hot(labels, logits.shape[1])
    return float((probs - truth).square().sum(-1).mean())
