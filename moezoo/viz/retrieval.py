"""Sentences with the images found for them, and images with the sentences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import SubFigure
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError
from moezoo.viz.grid import fitted
from moezoo.viz.predictions import frame
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, show_image, to_arrays


def retrieval_figure(
    images: Tensor,
    captions: Sequence[str],
    image_of_text: Sequence[int],
    image_features: Tensor,
    text_features: Tensor,
    *,
    queries: int = 4,
    top: int = 5,
) -> Picture:
    """Left sentences with the best images, right images with the best sentences; hits framed green, the others orange.

    A hit is what belongs to the query, or says the same: any item with the identical sentence counts.

    Args:
        images: (N, C, H, W) pixels in [0, 1], the gallery.
        captions: M sentences.
        image_of_text: M times the image of the sentence.
        image_features: (N, D), compared by cosine.
        text_features: (M, D).
        queries: Sentences, and images, asked with; spread evenly over all.
        top: Answers shown to each; sentences that repeat another are not.

    Returns:
        With ``data``: ``text_queries``, ``images_found``, ``image_hits``, ``image_queries``, ``texts_found`` and
        ``text_hits``; of each query the indices of its answers, best first, and whether they are hits.

    Raises:
        InputError: The numbers do not fit.
    """
    n, m = len(images), len(captions)
    if not n or not m or len(image_features) != n or len(text_features) != m or len(image_of_text) != m:
        raise InputError(
            f"retrieval_figure needs features of each of {n} images and {m} sentences, and the image of each sentence; "
            f"got {len(image_features)}, {len(text_features)} and {len(image_of_text)}"
        )
    similarity = F.normalize(text_features.float(), dim=-1) @ F.normalize(image_features.float(), dim=-1).T
    said = [{captions[t] for t in range(m) if image_of_text[t] == i} for i in range(n)]
    text_queries, image_queries = _spread(m, queries), _spread(n, queries)
    images_found = [similarity[t].argsort(descending=True, stable=True)[:top].tolist() for t in text_queries]
    texts_found = [
        _distinct(similarity[:, i].argsort(descending=True, stable=True), captions, top) for i in image_queries
    ]
    image_hits = [[captions[t] in said[i] for i in found] for t, found in zip(text_queries, images_found, strict=True)]
    text_hits = [[captions[t] in said[i] for t in found] for i, found in zip(image_queries, texts_found, strict=True)]

    pixels = to_arrays(images)
    shown, rows = min(top, n), max(len(text_queries), len(image_queries))
    widths = 2.1 + 1.2 * shown, 5.6
    figure = new_figure(sum(widths), 1.3 * rows + 0.6, pad=0.04)
    left, right = figure.subfigures(1, 2, width_ratios=widths, squeeze=False)[0]
    axes = left.subplots(rows, 1 + shown, squeeze=False, width_ratios=[1.9, *[1.1] * shown])
    for line, query, found, hits in zip(axes, text_queries, images_found, image_hits, strict=False):
        _write(line[0], [(fitted(captions[query], 24, 5), INK)])
        for ax, i, hit in zip(line[1:], found, hits, strict=True):
            show_image(ax, pixels[i])
            frame(ax, RUNS[2] if hit else ALERT)
    _hide(axes[len(text_queries) :])
    axes = right.subplots(rows, 2, squeeze=False, width_ratios=[1.1, 4.2])
    for line, query, found, hits in zip(axes, image_queries, texts_found, text_hits, strict=False):
        show_image(line[0], pixels[query])
        answers = zip(found, hits, strict=True)
        _write(line[1], [(fitted(captions[t], 52, 1), RUNS[2] if hit else ALERT) for t, hit in answers])
    _hide(axes[len(image_queries) :])
    _say(left, "Images for a sentence", image_hits, n)
    _say(right, "Sentences for an image", text_hits, m)
    figure.data = {
        "text_queries": text_queries,
        "images_found": images_found,
        "image_hits": image_hits,
        "image_queries": image_queries,
        "texts_found": texts_found,
        "text_hits": text_hits,
    }
    return figure


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of the numbers up to ``count``, evenly apart."""
    wanted = min(wanted, count)
    return [i * count // wanted for i in range(wanted)]


def _distinct(order: Tensor, captions: Sequence[str], wanted: int) -> list[int]:
    """The first of ``order`` that do not repeat a sentence."""
    first: dict[str, int] = {}
    for index in order.tolist():
        first.setdefault(captions[index], index)
        if len(first) == wanted:
            break
    return list(first.values())


def _say(part: SubFigure, what: str, hits: Sequence[Sequence[bool]], count: int) -> None:
    first = sum(each[0] for each in hits)
    said = f"{what}: the first is right for {first} of {len(hits)}, out of {count}"
    part.suptitle(said, fontsize=9.5, color=MUTED)


def _write(ax: Axes, lines: Sequence[tuple[str, str]]) -> None:
    """Lines of text and their colours, one below the other, around the middle of the axes."""
    ax.set_axis_off()
    for index, (text, color) in enumerate(lines):
        place = 0.5 if len(lines) == 1 else 0.9 - 0.8 * index / (len(lines) - 1)
        ax.text(0.02, place, text, transform=ax.transAxes, va="center", fontsize=8.5, color=color)


def _hide(axes: np.ndarray) -> None:
    for ax in axes.flatten():
        ax.set_visible(False)
