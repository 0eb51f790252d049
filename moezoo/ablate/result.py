"""What an ablation found: a row for every value of every factor, in files and for pictures."""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.ablate.cells import BASE, Setting
from moezoo.ablate.efficiency import Efficiency
from moezoo.ablate.factors import words
from moezoo.ablate.measured import Measured
from moezoo.ablate.plan import Plan
from moezoo.hub.files import write_text
from moezoo.train.output import write_json

CSV, JSON = "ablation.csv", "ablation.json"
GATES = ("balance", "activation_rate", "stability")
"""Fields of :class:`Measured` about gates."""


@dataclass(frozen=True)
class Row:
    """One setting; means over its seeds."""

    factor: str
    value: Any
    is_base: bool
    chosen: bool
    """Best of its factor on the validation images; of equals the cheapest."""
    results: tuple[Measured, ...]
    """One per seed."""
    folders: tuple[str, ...]
    """Their runs, below the ablation's folder."""
    efficiency: Efficiency | None = None
    """Of the first seed's model, where it was asked for."""

    def mean(self, field: str) -> float | None:
        """Of a field of :class:`Measured`, over the seeds that have it."""
        values = self._values(field)
        return statistics.fmean(values) if values else None

    def sd(self, field: str) -> float | None:
        """The standard deviation over the seeds; ``None`` of fewer than two."""
        values = self._values(field)
        return statistics.stdev(values) if len(values) > 1 else None

    def _values(self, field: str) -> list[float]:
        return [value for each in self.results if (value := getattr(each, field)) is not None]


@dataclass(frozen=True)
class Ablation:
    """The rows of the base and of each factor, in the plan's order; while it goes on, those there are."""

    plan: Plan
    rows: tuple[Row, ...]

    def columns(self) -> list[dict[str, Any]]:
        """What ``ablation.csv`` has, a mapping per row."""
        return [self._columns(row) for row in self.rows]

    def points(self) -> list[dict[str, Any]]:
        """What a picture shows: a mapping per row and seed, without the base, which is among the values."""
        return [
            {
                "factor": row.factor,
                "value": _shown(row.value),
                "accuracy": each.test,
                "routing_ratio": each.routing_ratio,
                "flops_per_image": each.flops_p50,
            }
            for row in self.rows
            if row.factor != BASE
            for each in row.results
        ]

    def base_values(self) -> dict[str, Any]:
        """What the base has of every factor that runs were made for."""
        return {row.factor: _shown(row.value) for row in self.rows if row.is_base and row.factor != BASE}

    def write(self, folder: Path) -> list[Path]:
        """``ablation.csv`` and ``ablation.json``; their paths."""
        table = io.StringIO()
        columns = self.columns()
        names = list(dict.fromkeys(key for row in columns for key in row)) or ["factor"]
        writer = csv.DictWriter(table, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(columns)
        paths = [folder / CSV, folder / JSON]
        write_text(paths[0], table.getvalue())
        rows = [
            {**c, "value": row.value, "results": [each.to_dict() for each in row.results]}
            for c, row in zip(columns, self.rows, strict=True)
        ]
        about = {key: value for key, value in dataclasses.asdict(self.plan).items() if key != "factors"}
        write_json(paths[1], {**about, "rows": rows})
        return paths

    def _columns(self, row: Row) -> dict[str, Any]:
        first = self.rows[0].results[0]
        return {
            "factor": row.factor,
            "value": words(row.value),
            "base": row.is_base,
            "chosen": row.chosen,
            "seeds": len(row.results),
            first.val_name: row.mean("val"),
            f"{first.val_name}_sd": row.sd("val"),
            first.test_name: row.mean("test"),
            f"{first.test_name}_sd": row.sd("test"),
            "routing_ratio": row.mean("routing_ratio"),
            "routing_ratio_sd": row.mean("routing_ratio_sd"),
            "flops_p50": row.mean("flops_p50"),
            "flops_p95": row.mean("flops_p95"),
            **{field: row.mean(field) for field in GATES if self._has_gates()},
            **(dataclasses.asdict(row.efficiency) if row.efficiency is not None else {}),
            "seconds": row.mean("seconds"),
            "run": row.folders[0],
        }

    def _has_gates(self) -> bool:
        return any(each.balance is not None for row in self.rows for each in row.results)


def _shown(value: Any) -> Any:
    """As a picture has it: a number or a word."""
    return value if isinstance(value, (int, float, str)) else words(value)


def make_rows(
    settings: Sequence[tuple[Setting, tuple[Measured, ...]]], costs: Mapping[str, Efficiency] | None = None
) -> tuple[Row, ...]:
    """Settings and what was measured of them, as rows; the choice looks at the validation images alone.

    Args:
        settings: With a result per seed.
        costs: The efficiency of runs by their folders, where it is known. A dial's is not that of its run.
    """
    known = costs or {}
    rows = [
        Row(
            s.factor,
            s.value,
            s.is_base,
            False,
            results,
            tuple(cell.folder for cell in s.cells),
            known.get(s.cells[0].folder) if not s.is_dial else None,
        )
        for s, results in settings
    ]
    best: dict[str, Row] = {}
    for row in rows:
        if row.factor != BASE and row.mean("val") is not None:
            best[row.factor] = max(best.get(row.factor, row), row, key=_rank)
    return tuple(dataclasses.replace(row, chosen=True) if best.get(row.factor) is row else row for row in rows)


def _rank(row: Row) -> tuple[float, float]:
    val, cost = row.mean("val"), row.mean("flops_p50")
    return (-1.0 if val is None else val), -(cost or 0.0)
