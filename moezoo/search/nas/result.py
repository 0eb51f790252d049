"""What a search found."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.hub.files import write_text
from moezoo.train.output import write_json

CSV, JSON = "search.csv", "result.json"


@dataclass(frozen=True)
class Found:
    """One design that was tried."""

    number: int
    values: Mapping[str, Any]
    score: float
    """The best on the validation images in the epochs that it was trained."""
    flops: int
    """Executed for one image."""
    parameters: int
    epochs: int
    """That it was trained."""
    seconds: float
    pruned: bool
    """Stopped early, since it was worse than the others: it is no candidate."""
    command: str | None
    """What trains it in full."""


@dataclass(frozen=True)
class SearchResult:
    """All trials, in their order."""

    space: str
    score_name: str
    """What scores are, accuracy for example; larger is better."""
    trials: tuple[Found, ...]
    test: Mapping[str, float]
    """The main figures of the best design on the test images, which were looked at once, when all was chosen."""
    folder: Path | None
    """With the weights of the best in ``best``; ``None`` where the search kept nothing."""

    @property
    def best(self) -> tuple[Found, ...]:
        """Trained designs, the highest validation score first; of equals the fewest FLOPs."""
        done = [each for each in self.trials if not each.pruned]
        return tuple(sorted(done, key=lambda each: (-each.score, each.flops)))

    @property
    def front(self) -> tuple[Found, ...]:
        """Designs that none is better than at as few FLOPs, by rising FLOPs: the Pareto front."""
        return pareto_front(self.best)

    def write(self, folder: Path) -> list[Path]:
        """``search.csv``, a row per trial, and ``result.json``; their paths."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        names = list(dict.fromkeys(key for each in self.trials for key in each.values))
        figures = ["number", "score", "pruned", "flops", "parameters", "epochs", "seconds"]
        front = {each.number for each in self.front}
        writer.writerow([*figures, "on_front", *names])
        for each in self.trials:
            writer.writerow(
                [*(getattr(each, figure) for figure in figures), each.number in front]
                + [each.values.get(key) for key in names]
            )
        write_text(folder / CSV, table.getvalue())
        write_json(folder / JSON, self.to_dict())
        return [folder / CSV, folder / JSON]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "space": self.space,
            "score": self.score_name,
            "best": vars(self.best[0]) if self.best else None,
            "front": [each.number for each in self.front],
            "test": dict(self.test),
            "trials": [vars(each) for each in self.trials],
        }


def pareto_front(designs: Sequence[Found]) -> tuple[Found, ...]:
    """Those of ``designs`` that no other beats in score or FLOPs without being worse in the other; by rising FLOPs."""
    front: list[Found] = []
    for each in sorted(designs, key=lambda each: (each.flops, -each.score)):
        if not front or each.score > front[-1].score:
            front.append(each)
    return tuple(front)
