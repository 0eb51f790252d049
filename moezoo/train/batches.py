"""Which images a step takes, in what order, and with what randomness: never a matter of workers or processes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.utils.data import Dataset, Subset, get_worker_info

from moezoo.data.skipped import Skipped
from moezoo.errors import DataError, MoeZooError
from moezoo.train.seeding import mix, restored_host, seed_host

if TYPE_CHECKING:
    from moezoo.train.tasks import Task


class Key(NamedTuple):
    """An image of an epoch."""

    epoch: int
    image: int
    """Its index in the data set."""
    copy: int = 0
    """Counts an image that the epoch has several times; each copy has randomness of its own."""


class Batch(NamedTuple):
    """One forward of one process."""

    content: Any
    """What the task made of the images; ``None`` without a single one."""
    indices: list[int]
    """The images' places in the data set, unreadable ones included."""
    skipped: list[Skipped]


class EpochBatches:
    """The batches of one process: keys of its slice of every global batch, from ``position`` on.

    The order of an epoch depends on the seed and the epoch alone. A global batch takes the next ``batch_size * world``
    images of it and rank r the r-th slice, so one process with the whole batch sees the same images.

    Args:
        size: Images of the data set.
        batch_size: Images per process.
        least: A last batch in which a process would get fewer images is left out, unless it is the only one.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, least: int = 0):
        self.size, self.seed, self.rank = size, seed, rank
        self.step = batch_size * world
        self.slice = batch_size
        rest = size % self.step
        self.end = size - rest if size > rest > 0 and rest // world < least else size
        """Images of an epoch."""
        self.world = world
        self.epoch, self.position = 1, 0

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return math.ceil(self.end / self.step)

    def start(self, epoch: int, position: int = 0) -> None:
        """Go on with ``epoch`` behind its first ``position`` images (of all processes together)."""
        self.epoch, self.position = epoch, position

    def order(self) -> list[Key]:
        """The images of the present epoch, of all processes."""
        generator = torch.Generator().manual_seed(mix(self.seed, self.epoch))
        return [Key(self.epoch, i) for i in torch.randperm(self.size, generator=generator)[: self.end].tolist()]

    def __iter__(self) -> Iterator[list[Key]]:
        order = self.order()
        for begin in range(self.position, self.end, self.step):
            batch = order[begin : begin + self.step]
            # The last global batch is shared out evenly.
            low, high = (len(batch) * r // self.world for r in (self.rank, self.rank + 1))
            yield batch[low:high]


class SeededItems(Dataset):
    """A data set read by :class:`Key`: each image has randomness of its own, from the seed, the epoch and its index.

    Args:
        dataset: Items as the task takes them, or :class:`~moezoo.data.skipped.Skipped` for an unreadable file.
        seed: Of the run.
        task: Says what a batch needs of an item.
        workers: Processes that will read.
    """

    def __init__(self, dataset: Any, seed: int, task: Task, *, workers: int = 0):
        self.dataset, self.seed, self.task = dataset, seed, task
        self.reading = torch.full((workers, 2), -1, dtype=torch.int64).share_memory_() if workers else None
        """(workers, 2) process id and index of the image it reads: what to say of a process that is gone."""

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: Sequence[Key]) -> list[Any]:
        with restored_host():
            return [self._read(*key) for key in keys]

    def _read(self, epoch: int, index: int, copy: int = 0) -> tuple[int, Any]:
        if self.reading is not None and (worker := get_worker_info()) is not None:
            self.reading[worker.id] = torch.tensor([os.getpid(), index])
        seed_host(mix(self.seed, epoch, index, *([copy] if copy else [])))
        try:
            item = self.dataset[index]
            return index, item if isinstance(item, Skipped) else self.task.item(self.dataset, index, item)
        except MoeZooError:
            raise
        except Exception as error:
            raise DataError(
                f"{describe(self.dataset, index)} of the training data cannot be read: {type(error).__name__}: {error}"
            ) from error


def describe(dataset: Any, index: int) -> str:
    """An image in words: its index, and its file where the data set knows it."""
    if isinstance(dataset, Subset):
        return describe(dataset.dataset, dataset.indices[index])
    name = getattr(dataset, "describe", None)
    said = name(index) if callable(name) else str(index)
    return f"image {index}" if str(index) == said.removeprefix("image ") else f"image {index} ({said})"


class Collate:
    """The readable items as one batch, the others beside it."""

    def __init__(self, task: Task):
        self.task = task

    def __call__(self, items: Sequence[tuple[int, Any]]) -> Batch:
        good = [item for _, item in items if not isinstance(item, Skipped)]
        skipped = [item for _, item in items if isinstance(item, Skipped)]
        indices = [index for index, _ in items]
        return Batch(self.task.collate(good) if good else None, indices, skipped)
