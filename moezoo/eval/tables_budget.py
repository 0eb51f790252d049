"""What images cost, and what that buys, as rich tables."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from moezoo.eval.budget import BudgetReport
from moezoo.eval.comparison import Comparison
from moezoo.eval.compute import short_number, unit_for
from moezoo.eval.front import FrontPoint
from moezoo.eval.tables import narrow_table, plain_table


def budget_table(report: BudgetReport) -> Table:
    """One row per figure, over the images."""
    table = plain_table("Compute per image", "", "mean", "5 %", "median", "95 %")
    rows = (
        ("share to the big expert", report.ratio, "{:.1%}".format),
        ("FLOPs", report.flops_per_image, short_number),
        ("FLOPs without choosing", report.without_encoder, short_number),
    )
    for name, spread, shown in rows:
        mean = f"[bold]{shown(spread.mean)}[/]"
        table.add_row(name, mean, shown(spread.p5), shown(spread.p50), shown(spread.p95))
    table.add_row("of the FLOPs at 100 %", f"{report.share_of_full:.1%}")
    if (timed := report.latency) is not None:
        table.add_row(f"ms per image, {timed.batch} at a time", f"[bold]{timed.routed:.3f}[/]")
        table.add_row("at 100 % to the big expert", f"{timed.full:.3f}")
    if (overlap := report.box_overlap) is not None:
        table.add_row("chosen cells on the object", _known(overlap.inside, "{:.1%}"))
        table.add_row("by chance", _known(overlap.chance, "{:.1%}"))
        table.add_row("lift over chance", _known(overlap.lift, "[bold]{:.2f}[/]"))
    return table


def front_table(points: Sequence[FrontPoint], title: str = "One model at several budgets") -> Table:
    """One row per budget, of which there is at least one."""
    names = list(points[0].metrics)
    unit, size = unit_for(max(point.budget.flops_per_image.p95 for point in points))
    more = (name.replace("_", "\n") for name in names)
    table = narrow_table(title, "budget", "top-1\n%", "ratio\n%", f"{unit}FLOPs\nmedian", "95 %", "of full\n%", *more)
    for point in points:
        spread = point.budget.flops_per_image
        table.add_row(
            "as trained" if point.setting is None else f"{point.setting:.3g}",
            f"[bold]{100 * point.accuracy:.2f}[/]",
            f"{100 * point.ratio:.1f}",
            _in_unit(spread.p50 / size),
            _in_unit(spread.p95 / size),
            f"{100 * point.budget.share_of_full:.1f}",
            *(f"{point.metrics[name]:.4f}" for name in names),
        )
    return table


def comparison_table(found: Comparison, title: str) -> Table:
    """One row per model. Times are of one forward pass, taken in turns, and beside them the share of the baseline's."""
    unit, size = unit_for(max(each.flops_per_image.p95 for each in found.models))
    timed = [f"ms\n/ {found.latency_batch}"] if found.latency_batch else []
    compared = ["of\nbaseline"] if found.latency_batch and found.baseline is not None else []
    table = narrow_table(
        title, "model", "top-1\n%", "ratio\n%", f"{unit}FLOPs\nmedian", "95 %", "without\nchoosing", *timed, *compared
    )
    for each in found.models:
        spread, time = each.flops_per_image, each.latency
        table.add_row(
            escape(each.title),
            f"[bold]{100 * each.accuracy:.2f}[/]",
            "-" if each.ratio is None else f"{100 * each.ratio.mean:.1f}",
            _in_unit(spread.p50 / size),
            _in_unit(spread.p95 / size),
            _in_unit(each.without_encoder.p50 / size),
            *([f"{time.p50:.2f}"] if time is not None else []),
            *([f"{time.ratio:.2f}x"] if time is not None and time.ratio is not None else []),
        )
    return table


def _in_unit(value: float) -> str:
    return f"{value:.3g}" if value >= 1 else f"{value:.3f}"


def _known(value: float, shown: str) -> str:
    """``value``, or a dash where there is none: of no chosen cell nothing is on the object."""
    return "-" if math.isnan(value) else shown.format(value)
