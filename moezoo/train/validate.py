"""Asking the model about a part of the data set, shared out among the processes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from moezoo.errors import InputError
from moezoo.eval.routing import LayerLoad
from moezoo.moe.modes import evaluating
from moezoo.train.health import RoutingMeter
from moezoo.train.parallel import Parallel
from moezoo.train.signals import shield_worker
from moezoo.train.tasks.base import Columns, Content, Task, count_images, joined


def predict_together(
    model: nn.Module,
    dataset: Dataset,
    task: Task,
    answer: Callable[[Content], Columns],
    parallel: Parallel,
    meter: RoutingMeter,
    *,
    batch_size: int,
    num_workers: int,
    autocast: Callable[[], AbstractContextManager],
    check: Callable[[], None],
) -> tuple[Columns, tuple[LayerLoad, ...]]:
    """What ``answer`` gives of all images, in the data set's order, and the experts' load; on every process.

    Every process runs equally many forwards, the last of them empty if need be, since those may be collective.

    Args:
        answer: What to ask of each batch that ``task`` makes.
        batch_size: Images per forward.
        check: Called before every forward; may raise.

    Raises:
        InputError: The data set is empty, or the model does not answer as the task needs it.
    """
    size = len(dataset)  # type: ignore[arg-type]
    if size == 0:
        raise InputError("the data set is empty")
    loader = DataLoader(
        dataset,
        batch_sampler=_shares(size, batch_size, parallel),
        num_workers=num_workers,
        collate_fn=_HeldOut(task),
        generator=torch.Generator(),
        worker_init_fn=shield_worker if num_workers else None,
    )
    answers: list[Columns] = []
    with evaluating(model):
        meter.start()
        for content in loader:
            check()
            if content is None:
                content = task.empty(dataset, held_out=True)
            with autocast(), meter.counting_if(count_images(content) > 0):
                answers.append(answer(content))
        counts = parallel.sum(meter.counts()).tolist()
    columns = joined(answers)
    if parallel.world > 1:
        columns = joined(parallel.gather(columns))
    return columns, meter.loads(counts)


def _shares(size: int, batch_size: int, parallel: Parallel) -> list[list[int]]:
    """The indices of each of this process's forwards; as many on every process."""
    share = -(-size // parallel.world)
    begin, end = min(share * parallel.rank, size), min(share * (parallel.rank + 1), size)
    return [list(range(begin + i, min(begin + i + batch_size, end))) for i in range(0, share, batch_size)]


class _HeldOut:
    def __init__(self, task: Task):
        self.task = task

    def __call__(self, items: Sequence[Any]) -> Content | None:
        return self.task.held_out(items) if items else None
