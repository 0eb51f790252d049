"""What ``moezoo compress`` works with: a model, images for it, and a way to judge it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor, nn

    from moezoo.compress.table import Compared
    from moezoo.train import Recipe
    from moezoo.train.tasks.base import Task

OBSERVED = 512
"""Validation images that say which experts are used."""
FEW = 3
"""Models that fit beside each other on a terminal."""


@dataclass(frozen=True)
class Given:
    """A trained model, and what it is judged by."""

    model: nn.Module
    images: Tensor
    """A batch to time and count."""
    recipe: Recipe | None
    task: Task | None
    splits: Any
    split: str | None
    batch_size: int
    """Of the judging."""

    @property
    def dataset(self) -> str | None:
        return None if self.task is None else self.splits.name

    @property
    def score_name(self) -> str:
        return "score" if self.task is None else self.task.score

    @property
    def machine(self) -> dict[str, Any]:
        from moezoo.measure.machine import machine

        return asdict(machine())

    def observed(self) -> list[Tensor]:
        """Batches of validation images."""
        part = self.splits.val if self.splits.val is not None else self.splits.train
        return list(itertools.islice(self._batches(part), -(-OBSERVED // self.batch_size)))

    def _batches(self, part: Any) -> Iterator[Any]:
        assert self.task is not None
        for start in range(0, len(part), self.batch_size):
            items = [part[i] for i in range(start, min(start + self.batch_size, len(part)))]
            yield self.task.held_out(items)[0]

    @contextmanager
    def judged(self, models: int) -> Iterator[Callable[[nn.Module], float] | None]:
        """A function from a model to its score, behind a bar for so many models."""
        from moezoo.cli.counting import counted

        if self.task is None or self.split is None:
            yield None
            return
        part = getattr(self.splits, self.split)
        with counted("judge", models * len(part)) as progress:
            yield lambda model: score(model, part, self.task, batch_size=self.batch_size, progress=progress)


def score(
    model: nn.Module, part: Any, task: Any, *, batch_size: int, progress: Callable[[int], None] = lambda _: None
) -> float:
    """What ``task`` chooses epochs by, of ``model`` on ``part``; higher is better."""
    from moezoo.moe.modes import evaluating
    from moezoo.train.tasks.base import joined

    answers = []
    with evaluating(model):
        for start in range(0, len(part), batch_size):
            items = [part[i] for i in range(start, min(start + batch_size, len(part)))]
            answers.append(task.answer(model, task.held_out(items)))
            progress(len(items))
    return float(task.judging(part).judge(joined(answers)).score)


def loaded(
    name: str, assignments: Sequence[str], checkpoint: Path | None, pretrained: bool, split: str | None, images: int
) -> Given:
    """The model ``name`` with its weights and, where there is a ``split`` to be judged on, its data set.

    Raises:
        ConfigError: The weights would be random, or the data set has no such ``split``.
    """
    from moezoo.backbones.inputs import example_images
    from moezoo.errors import ConfigError
    from moezoo.factory import create_model
    from moezoo.names import is_stored_name
    from moezoo.train import create_for, resolve_recipe
    from moezoo.train.tasks.choose import task_of

    if not (checkpoint or pretrained or is_stored_name(name)):
        raise ConfigError(
            f"{name!r} would be compressed with random weights: give --checkpoint FILE, --pretrained, or the name "
            "local-dir:FOLDER of a finished run."
        )
    recipe = resolve_recipe(name, assignments=list(assignments), needs_data=split is not None)
    batch_size = 2 * recipe.training.batch_size
    if split is None:
        model = create_model(
            name, pretrained or is_stored_name(name), checkpoint_path=checkpoint, **recipe.model
        ).eval()
        return Given(
            model, example_images(model, images), recipe if recipe.dataset else None, None, None, None, batch_size
        )
    model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
    task = task_of(model, splits, recipe.training)
    part = getattr(splits, split)
    if part is None:
        raise ConfigError(f"split={split!r} is not allowed: {splits.name!r} has no such images.")
    batch = task.held_out([part[i] for i in range(min(images, len(part)))])[0]
    return Given(model.eval(), batch, recipe, task, splits, split, batch_size)


def check_apart(name: str, out: Path) -> None:
    """Raise :class:`ConfigError` where the compressed model would take the place of the one it is made from."""
    from moezoo.errors import ConfigError

    kind, _, folder = name.partition(":")
    if kind == "local-dir" and Path(folder).expanduser().resolve() == out.resolve():
        raise ConfigError(f"out={str(out)!r} is not allowed: it is the folder of the model itself.")


def print_table(console: Console, rows: Sequence[Compared], score_name: str, title: str) -> None:
    """A column for each model, or a line where there are more than :data:`FEW`."""
    from rich.table import Table

    figures: dict[str, Callable[[Compared], str]] = {
        "file": lambda r: f"{r.file_bytes / 1e6:.3g} MB",
        "times smaller": lambda r: f"{r.times_smaller:.2f}",
        "weights": lambda r: f"{r.weights:,}",
        "ms a batch": lambda r: f"{r.milliseconds:.2f}",
        "times faster (quartiles)": lambda r: f"{r.speedup[0]:.2f} ({r.speedup[1]:.2f} to {r.speedup[2]:.2f})",
        "MFLOPs an image": lambda r: f"{r.flops / 1e6:.4g}",
        score_name: lambda r: "" if r.score is None else f"{100 * r.score:.2f} %",
        "tokens to the same experts": lambda r: "" if r.same_experts is None else f"{100 * r.same_experts:.1f} %",
    }
    cells = {label: [figure(row) for row in rows] for label, figure in figures.items()}
    lines = [["", *(row.name for row in rows)], *([label, *line] for label, line in cells.items() if any(line))]
    if len(rows) > FEW:
        lines = [list(line) for line in zip(*lines, strict=True)]
    table = Table(title=title, title_justify="left")
    for i, head in enumerate(lines[0]):
        table.add_column(head, justify="right" if i else "left")
    for line in lines[1:]:
        table.add_row(*line)
    console.print(table)
