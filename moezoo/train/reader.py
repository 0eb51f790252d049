"""Reading the training images, in this process or in others, and saying what they were at when one died."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from moezoo.errors import DataError, InputError, MoeZooError
from moezoo.train.batches import Batch, Collate, SeededItems, describe
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel import Parallel
from moezoo.train.signals import shield_worker
from moezoo.train.tasks import Task


class Reader:
    """The batches of an epoch, in groups of one optimiser step. The workers live as long as the reader."""

    def __init__(self, dataset: Any, task: Task, model: nn.Module, config: TrainingConfig, parallel: Parallel):
        if len(dataset) == 0:
            raise InputError("the training part of the data set is empty")
        self.config = config
        self.items = SeededItems(dataset, config.seed, task, workers=config.num_workers)
        self.batches = task.batches(
            dataset,
            config.batch_size,
            seed=config.seed,
            rank=parallel.rank,
            world=parallel.world,
            # Batch normalisation has no statistics of a single image.
            least=2 if any(isinstance(m, _BatchNorm) for m in model.modules()) else 0,
        )
        self.loader = DataLoader(
            self.items,
            batch_sampler=self.batches,
            num_workers=config.num_workers,
            collate_fn=Collate(task),
            generator=torch.Generator(),  # of workers' seeds, which nobody uses: the global one is not to move
            worker_init_fn=shield_worker if config.num_workers else None,
            persistent_workers=config.num_workers > 0,
            pin_memory=parallel.device.type == "cuda",
        )
        self._iterator: Any = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.batches) // self.config.grad_accum_steps)

    def steps(self, epoch: int, position: int) -> Iterator[tuple[list[Batch], int]]:
        """The batches of each step of ``epoch`` from ``position`` on, with the position behind them."""
        self.batches.start(epoch, position)
        position = self.batches.position
        group: list[Batch] = []
        self._iterator = iter(self.loader)
        for batch in self._iterator:
            group.append(batch)
            position = min(position + self.batches.step, self.batches.end)
            if len(group) == self.config.grad_accum_steps or position == self.batches.end:
                yield group, position
                group = []

    def done(self, position: int) -> bool:
        """Whether an epoch has no image behind ``position``."""
        return position >= self.batches.end

    @contextmanager
    def naming_crashes(self) -> Iterator[None]:
        """A worker that dies becomes an error that names the image it was reading. It may be raised at any moment.

        An error of ours that a worker raised loses the worker's traceback, which torch has put into its text.
        """
        try:
            yield
        except MoeZooError as error:
            text = str(error)
            if "in DataLoader worker process" not in text:
                raise
            raise type(error)(text.rpartition(f"{type(error).__qualname__}: ")[2].rstrip()) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error) or self.items.reading is None:
                raise
            dead = {int(number) for number in re.findall(r"\d+", str(error).partition("pid")[2])}
            at = ", ".join(describe(self.items.dataset, i) for pid, i in self.items.reading.tolist() if pid in dead)
            raise DataError(
                f"a process that reads images died ({error}). {f'It was at {at}. ' if at else ''}Often the memory was "
                "full (fewer num_workers), or a file crashes its decoder."
            ) from error

    def close(self) -> None:
        """End the workers."""
        iterator, self._iterator, self.loader._iterator = self._iterator, None, None
        if (shutdown := getattr(iterator, "_shutdown_workers", None)) is not None:
            shutdown()
