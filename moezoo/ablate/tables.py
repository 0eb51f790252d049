"""An ablation on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from moezoo.ablate.cells import BASE
from moezoo.ablate.efficiency import IMAGES
from moezoo.ablate.factors import words
from moezoo.ablate.result import GATES, Ablation, Row
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


def cost_tables(ablation: Ablation) -> list[Table]:
    """What the models cost, one row per setting with a run, and of models with gates how these use their experts; none
    where it was not measured."""
    measured = [row for row in ablation.rows if row.efficiency is not None]
    if not measured:
        return []
    gated = any(row.mean("balance") is not None for row in measured)
    return [_costs(ablation, measured), *([_gates(ablation, measured)] if gated else [])]


def _costs(ablation: Ablation, measured: Sequence[Row]) -> Table:
    columns = ("k params", "MFLOPs", "ms", "x base", "train MiB", "eval MiB")
    table = narrow_table(f"{ablation.plan.name}: cost", "", *columns)
    for row in measured:
        each = row.efficiency
        assert each is not None
        table.add_row(
            _setting(row),
            f"{each.parameters / 1e3:,.0f}",
            _mega(row.mean("flops_p50")),
            f"{each.ms_per_image:.2f}",
            f"{each.time_vs_base:.2f}",
            f"{each.train_memory / 2**20:.1f}",
            f"{each.eval_memory / 2**20:.1f}",
        )
    table.caption = f"per image, in batches of {IMAGES}; memory of such a batch"
    table.caption_justify = "left"
    return table


def _gates(ablation: Ablation, measured: Sequence[Row]) -> Table:
    table = narrow_table(f"{ablation.plan.name}: use of the experts by weight", "", "balance", "active", "stability")
    for row in measured:
        used = (row.mean(field) for field in GATES)
        table.add_row(_setting(row), *("-" if value is None else f"{value:.3f}" for value in used))
    return table


def _setting(row: Row) -> str:
    name = BASE if row.factor == BASE else f"{row.factor.rpartition('.')[2]} {words(row.value)}"
    return escape(f"{name}{' •' if row.is_base and row.factor != BASE else ''}")


def _share(row: Row, field: str, spread: float | None) -> str:
    value = row.mean(field)
    if value is None:
        return "-"
    return f"{100 * value:.1f}" + ("" if spread is None else f" ±{100 * spread:.1f}")


def _mega(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e6:.2f}"
