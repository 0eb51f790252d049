"""Results of re-identification as rich tables."""

from __future__ import annotations

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from moezoo.eval.reid.missing import MissingMatrix
from moezoo.eval.reid.report import ReidReport
from moezoo.eval.reid.usage import MoEUsage
from moezoo.eval.routing import short_name
from moezoo.eval.tables import narrow_table, plain_table

FIGURES = ("mAP", "Rank-1", "Rank-5", "Rank-10", "mINP")


def reid_table(result: ReidReport, title: str = "Re-identification") -> Table:
    """The figures of all queries, and those after re-ranking below them."""
    if result.missing:
        title = f"{title}, without {', '.join(result.missing)}"
    table = plain_table(title, "order", *FIGURES)
    table.add_row("by distance", *_figures(result))
    if result.reranked is not None:
        table.add_row("re-ranked", *_figures(result.reranked))
    without = result.num_queries - result.num_valid_queries
    told = f"{without:,} more have no match and count in nothing; " if without else ""
    table.caption = (
        f"{result.num_valid_queries:,} queries; {told}{result.num_gallery:,} images in the gallery; "
        f"protocol {result.protocol}\n"
    )
    table.caption_justify = "left"
    return table


def missing_table(matrix: MissingMatrix, title: str = "Missing modalities") -> Table:
    """One row per choice of modalities that are there; the change is that of mAP."""
    table = narrow_table(title, "shown", *FIGURES, "change")
    for row in matrix.rows:
        there = " ".join(name for name in matrix.modalities if name not in row.missing)
        change = f"{row.mAP - matrix.full.mAP:+.2%}" if row.missing else ""
        table.add_row(escape(there), *_figures(row), change)
    return table


def usage_table(usage: Sequence[MoEUsage], title: str = "Use of the experts by weight") -> Table:
    """One row per gate. Balance and stability are variances: 0 is even, and 0 is steady."""
    table = narrow_table(title, "layer", "mean %", "balance", "active", "stability", "by input")
    for each in usage:
        mean = " ".join(f"{100 * weight:.0f}" for weight in each.mean) if each.num_experts <= 8 else "-"
        table.add_row(
            escape(short_name(each.layer)),
            mean,
            f"{each.balance:.4f}",
            f"{each.activation_rate:.0%}",
            f"{each.stability:.4f}",
            f"{each.variation:.4f}",
        )
    if usage:
        table.caption = f"active: share of the weights above {usage[0].threshold:g}; by input: the part of stability\n"
        table.caption_justify = "left"
    return table


def _figures(result: ReidReport) -> list[str]:
    values = result.mAP, result.r1, result.r5, result.r10, result.mINP
    shown = ["-" if value != value else f"{value:.2%}" for value in values]
    return [f"[bold]{shown[0]}[/]", *shown[1:]]
