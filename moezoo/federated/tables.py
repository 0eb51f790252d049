"""A simulation as a table."""

from __future__ import annotations

from rich.table import Table

from moezoo.federated.result import FederatedResult


def federated_table(result: FederatedResult) -> Table:
    """A line per way of training: accuracies of the shared model and of the clients' own ones, after the last round."""
    table = Table(title="Test images, after the last round", title_justify="left")
    table.add_column("method", no_wrap=True)
    for column in ("shared model", "clients' mean", "worst client", "best client", "own classes", "left out"):
        table.add_column(column, justify="right")
    for name, method in result.methods.items():
        each = [score.everywhere for score in method.test]
        shared = "" if method.server is None else f"{method.server:.1%}"
        figures = [f"{value:.1%}" for value in (method.everywhere, min(each), max(each), method.own)]
        table.add_row(name, shared, *figures, str(method.failures))
    return table
