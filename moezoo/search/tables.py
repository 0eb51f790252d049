"""Searches on the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from moezoo.eval.compute import short_flops
from moezoo.eval.tables import narrow_table
from moezoo.search.edf import EdfReport
from moezoo.search.nas.result import Found, SearchResult
from moezoo.search.spaces import Design, find_space, list_spaces

SHOWN = 10
"""Designs in a table."""


def spaces_table() -> Table:
    """Every space, and what is in it."""
    table = narrow_table("Search spaces", "name", "designs")
    table.columns[1].justify, table.columns[1].no_wrap = "left", False
    for name in list_spaces():
        table.add_row(name, find_space(name).help)
    return table


def edf_table(report: EdfReport) -> Table:
    """A row per space: errors in per cent, and the best design's cost."""
    table = narrow_table("Errors on the validation images", "space", "designs", "min %", "median %", "mean %", "best")
    for name, found in report.spaces.items():
        if found:
            edf = report.edf(name)
            figures = (f"{100 * error:.1f}" for error in (edf.min, edf.quantile(0.5), edf.mean))
            table.add_row(escape(name), str(len(found)), *figures, short_flops(report.best(name).flops))
    return table


def search_table(result: SearchResult) -> Table:
    """The best designs and those of the front, which have a dot."""
    table = narrow_table(
        f"{result.space}: best of {len(result.trials)} designs", "", "val %", "FLOPs", "parameters", ""
    )
    table.columns[4].justify, table.columns[4].no_wrap = "left", False
    front = {each.number for each in result.front}
    best = result.best[:SHOWN]
    for each in (*best, *(each for each in result.front if each not in best)):
        table.add_row(*_row(result, each, each.number in front))
    stopped = sum(each.pruned for each in result.trials)
    table.caption = f"• none is better at as few FLOPs; {stopped} designs were stopped early"
    table.caption_justify = "left"
    return table


def _row(result: SearchResult, each: Found, on_front: bool) -> list[str]:
    words = escape(Design(result.space, each.values).words())
    mark = "•" if on_front else ""
    return [mark, f"{100 * each.score:.2f}", short_flops(each.flops), f"{each.parameters:,}", words]
