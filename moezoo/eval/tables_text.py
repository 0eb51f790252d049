"""Results about images and text as rich tables."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from moezoo.eval.captions import CaptionReport
from moezoo.eval.retrieval import Retrieval
from moezoo.eval.tables import plain_table
from moezoo.eval.text_report import TextReport

SHOWN = 4
"""Captions that are printed."""


def text_table(result: TextReport) -> Table:
    """The two accuracies, and apart from them what the model says when it is told."""
    table = plain_table("Image and text", "", "right")
    table.add_row("image only (accuracy)", f"[bold]{result.image_only:.2%}[/]")
    table.add_row("zero-shot by the classes' sentences (accuracy)", f"[bold]{result.zero_shot:.2%}[/]")
    told = f"[dim]{result.label_text_upper_bound:.2%}[/]"
    table.add_row("label_text_upper_bound (told the label: no accuracy)", told)
    return table


def retrieval_table(result: Retrieval) -> Table:
    """One row per direction."""
    table = plain_table("Retrieval", "from", "queries", "R@1", "R@5", "R@10", "median rank")
    ways = (
        ("image to text", result.images, result.image_to_text),
        ("text to image", result.texts, result.text_to_image),
    )
    for way, queries, recall in ways:
        table.add_row(
            way,
            f"{queries:,}",
            f"[bold]{recall.r1:.2%}[/]",
            f"{recall.r5:.2%}",
            f"{recall.r10:.2%}",
            f"{recall.median_rank:g}",
        )
    table.caption = f"{result.distinct_texts:,} different sentences; a hit is any item with the identical one.\n"
    table.caption_justify = "left"
    return table


def captions_table(result: CaptionReport) -> Table:
    """The figures of all captions together."""
    table = plain_table("Captions against references", "images", "exact match", "BLEU", "chrF")
    table.columns[0].justify = "right"
    table.add_row(
        f"{result.images:,}", f"[bold]{result.exact_match:.2%}[/]", f"{result.bleu:.2f}", f"{result.chrf:.2f}"
    )
    return table


def samples_table(result: CaptionReport) -> Table:
    """A few captions beside their first references."""
    table = plain_table("Some captions", "image", "caption", "a reference")
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "left", False
    for each in result.samples[:SHOWN]:
        table.add_row(escape(each.image), escape(each.caption), escape(each.references[0]))
    return table
