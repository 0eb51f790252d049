"""Classifying a part of the data set, shared out among the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from moezoo.errors import InputError
from moezoo.eval.answers import logits_of
from moezoo.eval.routing import LayerLoad
from moezoo.moe.modes import evaluating
from moezoo.train.health import RoutingMeter
from moezoo.train.parallel import Parallel
from moezoo.train.signals import shield_worker


def predict_together(
    model: nn.Module,
    dataset: Dataset,
    parallel: Parallel,
    meter: RoutingMeter,
    *,
    batch_size: int,
    num_workers: int,
    autocast: Callable[[], AbstractContextManager],
    check: Callable[[], None],
) -> tuple[Tensor, Tensor, tuple[LayerLoad, ...]]:
    """(N, classes) logits and (N,) labels, on the CPU in the data set's order, and the experts' load; on every process.

    Every process runs equally many forwards, the last of them empty if need be, since those may be collective.

    Args:
        batch_size: Images per forward.
        check: Called before every forward; may raise.

    Raises:
        InputError: The data set is empty, or the model does not answer with (B, classes) logits.
    """
    size = len(dataset)  # type: ignore[arg-type]
    if size == 0:
        raise InputError("the data set is empty")
    loader = DataLoader(
        dataset,
        batch_sampler=_shares(size, batch_size, parallel),
        num_workers=num_workers,
        collate_fn=_collate,
        generator=torch.Generator(),
        worker_init_fn=shield_worker if num_workers else None,
    )
    answers: list[Tensor] = []
    labels: list[Tensor] = []
    shape: Sequence[int] = ()
    with evaluating(model):
        meter.start()
        for batch in loader:
            check()
            if batch is None:
                shape = shape or dataset[0][0].shape
                batch = torch.zeros(0, *shape), torch.zeros(0, dtype=torch.int64)
            images, targets = batch
            shape = images.shape[1:]
            with autocast(), meter.counting_if(len(images) > 0):
                answers.append(logits_of(model, images))
            labels.append(targets)
        counts = parallel.sum(meter.counts()).tolist()
    logits, targets = torch.cat(answers), torch.cat(labels)
    if parallel.world > 1:
        everyone = parallel.gather((logits, targets))
        logits, targets = (torch.cat(parts) for parts in zip(*everyone, strict=True))
    return logits, targets, meter.loads(counts)


def _shares(size: int, batch_size: int, parallel: Parallel) -> list[list[int]]:
    """The indices of each of this process's forwards; as many on every process."""
    share = -(-size // parallel.world)
    begin, end = min(share * parallel.rank, size), min(share * (parallel.rank + 1), size)
    return [list(range(begin + i, min(begin + i + batch_size, end))) for i in range(0, share, batch_size)]


def _collate(items: Sequence[Any]) -> Any:
    return default_collate(list(items)) if items else None
