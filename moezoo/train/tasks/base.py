"""What a run is for: its batches, its loss, and by what it is judged. The loop knows nothing of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from moezoo.eval import Evaluation, LayerLoad
from moezoo.train.batches import EpochBatches
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel import own_type
from moezoo.train.seeding import restored_host

Content = Any
"""A named tuple whose first field is (B, C, H, W) images and whose others, tensors or lists, say more about them."""

Columns = tuple[Any, ...]
"""What a model said of B images: tensors on the CPU, or lists, to be put one behind the other over batches."""


class Judgement(NamedTuple):
    """What an epoch is chosen by."""

    loss: float
    """Decides between equal scores; lower is better. NaN where there is none."""
    score: float
    """Higher is better."""


class Task(ABC):
    """One kind of training. It holds no model, so that the processes that read images get it cheaply.

    A new one is a subclass, listed in :data:`moezoo.train.tasks.TASKS`.

    Args:
        model: Is to be trained; a task may give it what it lacks, such as a tokenizer.
        splits: To be trained on.
        config: How to train.

    Raises:
        ConfigError: They do not fit one another.
    """

    name: ClassVar[str]
    score: ClassVar[str]
    """What :attr:`Judgement.score` is, as an identifier; ``metrics.jsonl`` has it as ``val_<score>``."""
    leaves_parameters_out: bool = False
    """Some parameters of the model may get no gradient."""
    reports_last: ClassVar[bool] = False
    """The last epoch is tested too, beside the one that is kept."""

    def __init__(self, model: nn.Module, splits: Any, config: TrainingConfig):
        self.model_name = own_type(model).__name__

    @classmethod
    @abstractmethod
    def fits(cls, model: nn.Module, splits: Any, config: TrainingConfig) -> bool:
        """Whether this is the task of such a model with such data. The first that fits is taken."""

    # Training. `item` is called where images are read, with generators seeded for this image of this epoch.

    @abstractmethod
    def item(self, dataset: Any, index: int, item: Any) -> Any:
        """What a batch needs of ``dataset[index]``, which is ``item``.

        Raises:
            DataError: The item is not what it has to be.
        """

    @abstractmethod
    def collate(self, items: Sequence[Any]) -> Content:
        """One or more of them as a batch."""

    def prepare(self, content: Content) -> Content:
        """The last change of a batch, on the device: mixing of its images, for example."""
        return content

    @abstractmethod
    def forward(self, module: nn.Module, content: Content) -> Any:
        """Call ``module``, under autocast."""

    @abstractmethod
    def loss(self, output: Any, content: Content) -> Tensor:
        """() the loss summed over the images, without the model's auxiliary one; outside autocast."""

    # Validation and test.

    @abstractmethod
    def held_out(self, items: Sequence[Any]) -> Content:
        """One or more items of the validation or test part, as they are read, as a batch."""

    @abstractmethod
    def answer(self, model: nn.Module, content: Content) -> Columns:
        """What is judged."""

    @abstractmethod
    def judge(self, columns: Columns) -> Judgement:
        """Over the whole part that epochs are chosen by, in its order."""

    def judging(self, part: Any) -> Task:
        """The same for another held-out part, for tasks in which more than the columns depends on it."""
        return self

    def final(self, model: nn.Module) -> Callable[[Content], Columns] | None:
        """What to ask of the test images beside :meth:`answer`, in a second pass, where there is something."""
        return None

    @abstractmethod
    def report(self, columns: Columns, final: Columns | None, routing: tuple[LayerLoad, ...]) -> Evaluation:
        """The test, of what :meth:`answer` and :meth:`final` gave."""

    # What a step takes.

    def batches(
        self, dataset: Any, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, least: int = 0
    ) -> EpochBatches:
        """Which images of the training part a step takes, in what order.

        Args:
            dataset: The training part.
            batch_size: As the others, of :class:`~moezoo.train.batches.EpochBatches`.
        """
        return EpochBatches(len(dataset), batch_size, seed=seed, rank=rank, world=world, least=least)

    # A run that is gone on with.

    def facts(self) -> dict[str, Any]:
        """Plain data that has to be the same in a run that is resumed."""
        return {"name": self.name}

    # Batches in general.

    def empty(self, dataset: Any, *, held_out: bool) -> Content:
        """A batch without images, for a process that has none while others do; ``dataset`` is a held-out part."""
        with restored_host():
            item = dataset[0]
            content = self.held_out([item]) if held_out else self.collate([self.item(dataset, 0, item)])
        return type(content)(*(field[:0] for field in content))


def count_images(content: Content) -> int:
    return len(content[0])


def to_device(content: Content, device: torch.device) -> Content:
    """The batch with its tensors on ``device``."""
    return type(content)(*(f.to(device, non_blocking=True) if isinstance(f, Tensor) else f for f in content))


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of several batches, one behind the other."""
    return tuple(
        torch.cat(column) if isinstance(column[0], Tensor) else [row for rows in column for row in rows]
        for column in map(list, zip(*parts, strict=True))
    )


def promoted(logits: Tensor) -> Tensor:
    """In float32 at least: a loss is not computed in half precision."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
