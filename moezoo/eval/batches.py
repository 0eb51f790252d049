"""Batches of a data set for an evaluation, which is over all of its images or none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from moezoo.data.skipped import Skipped
from moezoo.errors import InputError, UnreadableImage


def labelled_batches(dataset: Dataset, batch_size: int, num_workers: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """(B, C, H, W) images and (B,) labels, in the data set's order.

    Raises:
        InputError: The data set is empty.
        UnreadableImage: One of its files cannot be read, of a training part too.
    """
    check_some(dataset)
    yield from DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=_labelled)


def first_images(dataset: Dataset, count: int) -> Tensor:
    """(B, C, H, W): the first ``count`` images, fewer where there are fewer.

    Raises:
        InputError: The data set is empty.
    """
    count = min(count, len(dataset))  # type: ignore[arg-type]
    return next(labelled_batches(Subset(dataset, range(count)), max(count, 1)))[0]


def check_some(dataset: Dataset) -> None:
    """Raise :class:`InputError` where there is nothing to evaluate."""
    if len(dataset) == 0:  # type: ignore[arg-type]
        raise InputError("the data set is empty")


def readable(items: Sequence[Any]) -> Sequence[Any]:
    """``items``, or :class:`UnreadableImage` for what a training part hands out in the place of one."""
    for item in items:
        if isinstance(item, Skipped):
            raise UnreadableImage(item.path, item.reason)
    return items


def _labelled(items: Sequence[Any]) -> Any:
    return default_collate(list(readable(items)))
