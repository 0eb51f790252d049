"""An evaluation on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from moezoo.eval import Evaluation


def print_report(console: Console, report: Evaluation, title: str, *, brief: bool = False) -> None:
    """Every table that ``report`` has something for, if ``brief`` the main ones; ``title`` stands above the first."""
    from rich.text import Text

    from moezoo.eval import tables, tables_budget, tables_reid, tables_text

    if report.classification is not None:
        console.print(tables.metrics_table(report.classification, title))
    else:  # the tables that follow are narrower than a title
        console.print(Text(title, style="bold"))
    if report.text is not None:
        console.print(tables_text.text_table(report.text))
    if report.retrieval is not None:
        console.print(tables_text.retrieval_table(report.retrieval))
    if report.reid is not None:
        console.print(tables_reid.reid_table(report.reid))
        if report.reid.usage:
            console.print(tables_reid.usage_table(report.reid.usage))
    if report.captions is not None:
        console.print(tables_text.captions_table(report.captions))
        console.print(tables_text.samples_table(report.captions))
    if report.metrics and not brief:
        console.print(tables.further_table(report.metrics))
    if report.classification is not None and not brief:
        console.print(tables.labels_table(report.classification))
        console.print(tables.reliability_table(report.classification))
    if report.budget is not None:
        console.print(tables_budget.budget_table(report.budget))
    if report.routing:
        console.print(tables.routing_table(report.routing))
    if report.robustness is not None and not brief:
        console.print(tables.robustness_table(report.robustness))
