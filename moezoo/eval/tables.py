"""Results as rich tables, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from moezoo.eval.classification import Classification
from moezoo.eval.robustness import Robustness
from moezoo.eval.routing import LayerLoad, short_name

EXPERT_STYLES = ("blue", "yellow", "green", "magenta", "cyan", "red", "bright_magenta", "bright_yellow")
BAR = 22
"""Width of the bar that shows a layer's shares."""


def plain_table(title: str, *columns: str) -> Table:
    """A table without boxes; every column but the first is right-aligned."""
    table = Table(title=escape(title), title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def narrow_table(title: str, *columns: str) -> Table:
    """The same with less space between the columns, for many of them in 80 characters."""
    table = plain_table(title, *columns)
    table.collapse_padding = True
    return table


def metrics_table(result: Classification, title: str) -> Table:
    """The figures of all images together."""
    table = plain_table(title, "images", "top-1", "top-5", "loss", "calibration error")
    top5 = "-" if result.top5 is None else f"{result.top5:.2%}"
    row = [
        f"{result.samples:,}",
        f"[bold]{result.top1:.2%}[/]",
        top5,
        f"{result.loss:.4f}",
        f"{result.calibration_error:.2%}",
    ]
    if result.nonfinite:
        table.add_column("no answer (NaN)", justify="right")
        row.append(f"[bold red]{result.nonfinite:,}[/]")
    table.add_row(*row)
    return table


def further_table(metrics: Mapping[str, float]) -> Table:
    """One row per registered metric."""
    table = plain_table("Further metrics", "metric", "value")
    for name, value in metrics.items():
        table.add_row(name.replace("_", " "), f"{value:.4f}")
    return table


def reliability_table(result: Classification) -> Table:
    """One row per bin of confidence: a model that knows itself is right as often as it is sure."""
    table = plain_table("Calibration", "confidence", "images", "mean confidence", "right", "gap")
    for each in result.reliability:
        gap = each.accuracy - each.confidence
        table.add_row(
            f"{each.low:.0%} to {each.high:.0%}",
            f"{each.count:,}",
            f"{each.confidence:.1%}",
            f"{each.accuracy:.1%}",
            f"{gap:+.1%}",
        )
    return table


def robustness_table(result: Robustness) -> Table:
    """One row per corruption, beside the clean images. A token is rerouted if its first expert changed."""
    routed = any(each.rerouted for each in result.corrupted)
    columns = ["top-1", "change", "same answer", *(["tokens rerouted"] if routed else [])]
    table = plain_table(f"Robustness, seed {result.seed}", "images", *columns)
    table.add_row("clean", f"[bold]{result.clean_top1:.2%}[/]", *[""] * (len(columns) - 1))
    for each in result.corrupted:
        row = [f"{each.top1:.2%}", f"{each.top1 - result.clean_top1:+.2%}", f"{each.kept:.2%}"]
        if routed:
            row.append(f"{each.mean_rerouted or 0:.1%}")
        table.add_row(f"{each.kind} {each.severity}", *row)
    return table


def labels_table(result: Classification, limit: int = 20) -> Table:
    """One row per class, the worst first where there are more than ``limit``."""
    rows = list(result.labels)
    title = "Per class"
    if len(rows) > limit:
        rows = sorted(rows, key=lambda label: label.f1)[:limit]
        title = f"Per class, the {limit} worst of {len(result.labels)}"
    table = plain_table(title, "class", "precision", "recall", "F1", "images")
    for label in rows:
        table.add_row(
            escape(label.label),
            f"{label.precision:.1%}",
            f"{label.recall:.1%}",
            f"{label.f1:.1%}",
            f"{label.support:,}",
        )
    return table


def routing_table(routing: Sequence[LayerLoad], title: str = "Expert load") -> Table:
    """One row per MoE layer, the shares as a bar of colours."""
    table = narrow_table(title, "layer", "share of the tokens", "max", "min", "entropy", "dead", "dropped")
    table.columns[1].justify = "left"
    for load in routing:
        dead = f"[bold red]{len(load.dead_experts)} of {load.num_experts}[/]" if load.dead_experts else "none"
        table.add_row(
            short_name(load.layer),
            _bar(load.share),
            f"{load.max_share:.0%}",
            f"{load.min_share:.0%}",
            f"{load.load_entropy:.3f}",
            dead,
            f"{load.drop_rate:.1%}",
        )
    return table


def _bar(share: Sequence[float]) -> Text:
    """Blocks of colour, one per expert, as wide as its share."""
    if len(share) > len(EXPERT_STYLES):
        return Text(f"{len(share)} experts", style="dim")
    text, begin, total = Text(), 0, 0.0
    for index, part in enumerate(share):
        total += part
        end = round(total * BAR)
        label = f"{part:.0%}" if end - begin > 4 else ""
        text.append(label.center(end - begin), style=f"white on {EXPERT_STYLES[index]}")
        begin = end
    return text
