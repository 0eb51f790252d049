"""An ablation on the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from moezoo.ablate.cells import BASE
from moezoo.ablate.factors import words
from moezoo.ablate.result import Ablation, Row
from moezoo.eval.tables import narrow_table


def ablation_table(ablation: Ablation) -> Table:
    """One row per setting below a line with its factor; the base has a dot, what validation chooses is bold.

    Shares are in per cent, with their spread over the seeds; that of ``routed`` is over the images.
    """
    routed = any(row.mean("routing_ratio") is not None for row in ablation.rows)
    counted = any(row.mean("flops_p50") is not None for row in ablation.rows)
    columns = ["val %", "test %"] + ["routed %"] * routed + ["MFLOPs", "p95"] * counted + ["s"]
    seeds = f", {ablation.plan.seeds} seeds" if ablation.plan.seeds > 1 else ""
    table = narrow_table(f"{ablation.plan.name}: one factor at a time{seeds}", "", *columns)
    factor = BASE
    for row in ablation.rows:
        if row.factor != factor:
            table.add_section()
            table.add_row(f"[dim]{escape(row.factor)}[/]")
            factor = row.factor
        value = BASE if row.factor == BASE else f"{words(row.value)}{' •' if row.is_base else ''}"
        cells = [escape(value), _share(row, "val", row.sd("val")), _share(row, "test", row.sd("test"))]
        if routed:
            cells.append(_share(row, "routing_ratio", row.mean("routing_ratio_sd")))
        if counted:
            cells += [_mega(row.mean("flops_p50")), _mega(row.mean("flops_p95"))]
        table.add_row(*cells, f"{row.mean('seconds') or 0:.1f}", style="bold" if row.chosen else None)
    table.caption = "• as in the base; bold: best of its factor on the validation images"
    table.caption_justify = "left"
    return table


def _share(row: Row, field: str, spread: float | None) -> str:
    value = row.mean(field)
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ±{100 * spread:.1f}")


def _mega(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.2f}"
