"""The benchmark as tables in the terminal, one per model, type and batch size."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from moezoo.measure.bench_row import BenchRow, cells

COLUMNS = (
    "",
    "GFLOPs\n/image",
    "params M\n(active)",
    "p50\nms",
    "p95\nms",
    "images\n/s",
    "peak\nMiB",
    "time\n/dense",
    "time\n/plain",
)


def bench_tables(rows: Sequence[BenchRow]) -> Group:
    """What was measured as rich tables that fit 80 columns; failures are left to the caller."""
    first = rows[0]
    parts: list[Table | Text] = [Text(first.machine, style="dim")]
    for (name, dtype, batch), group in groupby(rows, key=lambda row: (row.name, row.dtype, row.batch_size)):
        measured = [row for row in group if row.error is None]
        if not measured:
            continue
        table = Table(
            title=Text(f"{name}, {dtype}, batch {batch}"),
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
            pad_edge=False,
        )
        for index, column in enumerate(COLUMNS):
            table.add_column(column, justify="right" if index else "left", no_wrap=True)
        for row in measured:
            values = cells(row)
            ratios = [value.partition(" ")[0] for value in values[-2:]]  # the quartiles are in the files
            table.add_row(row.role, *values[4:-2], *ratios)
        parts.append(table)
    return Group(*parts)
