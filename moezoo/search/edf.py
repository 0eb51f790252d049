"""How good a design space is: the distribution of its designs' errors after a short training.

Radosavovic et al. 2019, "On Network Design Spaces for Visual Recognition" (https://arxiv.org/abs/1905.13214).
"""

from __future__ import annotations

import bisect
import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from moezoo.errors import InputError
from moezoo.hub.files import write_text
from moezoo.search.trial import Trained
from moezoo.train.output import write_json

CSV, JSON = "edf.csv", "edf.json"


@dataclass(frozen=True)
class ErrorEdf:
    """The empirical distribution function of errors."""

    errors: tuple[float, ...]
    """Ascending."""

    def __call__(self, error: float) -> float:
        """The share of designs whose error is below ``error``."""
        return bisect.bisect_left(self.errors, error) / len(self.errors)

    @property
    def min(self) -> float:
        return self.errors[0]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.errors)

    def quantile(self, share: float) -> float:
        """The least error that at least ``share`` of the designs do not exceed."""
        return float(np.quantile(self.errors, share, method="inverted_cdf"))


def error_edf(errors: Sequence[float]) -> ErrorEdf:
    """F(e): the share of ``errors`` below e.

    Raises:
        InputError: There is none, or one is NaN or infinite.
    """
    array = np.asarray(list(errors), dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise InputError(f"errors must be one or more finite numbers, got {list(errors)!r:.80}")
    return ErrorEdf(tuple(sorted(array.tolist())))


@dataclass(frozen=True)
class EdfReport:
    """Designs of one or more spaces, trained."""

    spaces: Mapping[str, tuple[Trained, ...]]
    """In the order they were drawn."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """How they were drawn and trained."""

    def edf(self, space: str) -> ErrorEdf:
        """Of one space."""
        return error_edf([each.error for each in self.spaces[space]])

    def errors(self) -> dict[str, list[float]]:
        """For :func:`moezoo.viz.edf_figure`."""
        return {name: [each.error for each in found] for name, found in self.spaces.items() if found}

    def best(self, space: str) -> Trained:
        """The least error; of equals the fewest FLOPs."""
        return min(self.spaces[space], key=lambda each: (each.error, each.flops))

    def write(self, folder: Path) -> list[Path]:
        """``edf.csv``, a row per design, and ``edf.json``; their paths."""
        table = io.StringIO()
        writer = csv.writer(table, lineterminator="\n")
        names = list(dict.fromkeys(key for found in self.spaces.values() for each in found for key in each.values))
        figures = ["error", "score", "score_name", "flops", "parameters", "epochs", "best_epoch", "seconds"]
        writer.writerow(["space", *figures, *names])
        for name, found in self.spaces.items():
            for each in found:
                row = [getattr(each, figure) for figure in figures]
                writer.writerow([name, *row, *(_cell(each.values.get(key)) for key in names)])
        write_text(folder / CSV, table.getvalue())
        write_json(folder / JSON, self.to_dict())
        return [folder / CSV, folder / JSON]

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        spaces = {}
        for name, found in self.spaces.items():
            edf = self.edf(name) if found else None
            figures = {"min_error": edf.min, "mean_error": edf.mean, "median_error": edf.quantile(0.5)} if edf else {}
            spaces[name] = {**figures, "designs": [each.to_dict() for each in found]}
        return {**self.about, "spaces": spaces}


def _cell(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, (list, tuple)) else value
