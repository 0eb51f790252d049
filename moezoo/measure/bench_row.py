"""One line of a benchmark, and its ways to paper: Markdown, CSV, JSON."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moezoo.errors import OutputError
from moezoo.names import did_you_mean


@dataclass(frozen=True)
class BenchRow:
    """One model at one batch size in one floating-point type. ``None`` stands where nothing was measured."""

    name: str
    """The name the benchmark was asked for."""
    role: str
    """``model``, its ``dense`` twin, or its plain ``backbone``."""
    batch_size: int
    dtype: str
    device: str
    processor: str
    cores: int
    threads: int
    torch: str
    input_size: tuple[int, ...] | None = None
    """Channels, height, width."""
    flops: int | None = None
    """FLOPs executed for the whole batch; a multiply-add is 2."""
    flops_analytic: int | None = None
    """The same by formula."""
    params_total: int | None = None
    params_active: int | None = None
    latency_p50: float | None = None
    """Milliseconds per batch."""
    latency_p95: float | None = None
    throughput: float | None = None
    """Images per second at the median latency."""
    peak_memory: int | None = None
    """Bytes alive at the worst moment of an inference forward, weights and input included."""
    latency_vs_dense: float | None = None
    """Median over the rounds of this row's time by the dense twin's of the same round."""
    latency_vs_dense_quartiles: tuple[float, float] | None = None
    latency_vs_backbone: float | None = None
    latency_vs_backbone_quartiles: tuple[float, float] | None = None
    flops_vs_dense: float | None = None
    flops_vs_backbone: float | None = None
    error: str | None = None
    """Why nothing was measured."""

    @property
    def machine(self) -> str:
        """Everything about the machine in one line."""
        cores = f"{self.cores} CPU cores, {self.threads} threads"
        return f"{self.processor}, {cores}, torch {self.torch}, {self.device}"


def to_json(rows: Sequence[BenchRow]) -> str:
    """A list of objects, one per row, numbers unrounded."""
    return json.dumps([dataclasses.asdict(row) for row in rows], indent=2) + "\n"


def to_csv(rows: Sequence[BenchRow]) -> str:
    """One line per row under the field names; tuples are joined by ``x`` (sizes) or ``..`` (quartiles)."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(BenchRow)]
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(name, getattr(row, name)) for name in names])
    return text.getvalue()


def to_markdown(rows: Sequence[BenchRow], *, command: str | None = None) -> str:
    """A table for people, then the machine, and the ``command`` that made it."""
    header = [
        "model",
        "role",
        "batch",
        "dtype",
        "GFLOPs/image",
        "params (active) M",
        "p50 ms",
        "p95 ms",
        "images/s",
        "peak MiB",
        "time / dense",
        "time / backbone",
    ]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] * 4 + ["---:"] * 8) + "|"]
    lines += ["| " + " | ".join(cells(row)) + " |" for row in rows]
    machines = dict.fromkeys(row.machine for row in rows)
    lines += [
        "",
        "Times of one line's models were taken in interleaved rounds of one run; ratios are medians over the "
        "rounds, with quartiles. Measured on: " + "; ".join(machines) + ".",
    ]
    if command is not None:
        lines += ["", f"Command: `{command}`"]
    return "\n".join(lines) + "\n"


def cells(row: BenchRow) -> list[str]:
    """The row as the twelve cells of the table; an error takes the place of the numbers."""
    head = [row.name, row.role, str(row.batch_size), row.dtype]
    if row.error is not None:
        return [*head, "error: " + " ".join(row.error.split()).replace("|", "\\|"), *[""] * 7]
    return [
        *head,
        _number(row.flops, ".3f", 1e9 * row.batch_size),
        _parameters(row),
        _number(row.latency_p50, ".2f"),
        _number(row.latency_p95, ".2f"),
        _number(row.throughput, ".1f"),
        _number(row.peak_memory, ".1f", 2**20),
        _ratio(row.latency_vs_dense, row.latency_vs_dense_quartiles),
        _ratio(row.latency_vs_backbone, row.latency_vs_backbone_quartiles),
    ]


WRITERS = {".md": to_markdown, ".csv": to_csv, ".json": to_json}


def check_output(path: Path) -> Path:
    """``path`` if a benchmark can be written there; meant to be asked before anything is measured.

    Raises:
        OutputError: The ending is not .md, .csv or .json, or the folder does not exist.
    """
    if path.suffix not in WRITERS:
        raise OutputError(f"{str(path)!r} does not end in {', '.join(WRITERS)}.{did_you_mean(path.suffix, WRITERS)}")
    if not path.parent.is_dir():
        raise OutputError(f"the folder of {str(path)!r} does not exist")
    if path.is_dir():
        raise OutputError(f"{str(path)!r} is a folder")
    return path


def write_rows(rows: Sequence[BenchRow], path: str | Path, *, command: str | None = None) -> None:
    """Write ``rows`` in the format that the file's ending names.

    Raises:
        OutputError: The ending is unknown or the file cannot be written.
    """
    path = check_output(Path(path))
    text = to_markdown(rows, command=command) if path.suffix == ".md" else WRITERS[path.suffix](rows)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error}") from error


def _cell(name: str, value: object) -> object:
    if isinstance(value, tuple):
        return ("x" if name == "input_size" else "..").join(map(str, value))
    return "" if value is None else value


def _parameters(row: BenchRow) -> str:
    total = _number(row.params_total, ".2f", 1e6)
    return total if row.params_active == row.params_total else f"{total} ({_number(row.params_active, '.2f', 1e6)})"


def _number(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else format(value / unit, form)


def _ratio(ratio: float | None, quartiles: tuple[float, float] | None) -> str:
    if ratio is None or quartiles is None:
        return "-"
    return f"{ratio:.2f} ({quartiles[0]:.2f}-{quartiles[1]:.2f})"
