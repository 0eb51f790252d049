"""Images with what the model says of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.captions import plain
from moezoo.viz.grid import fitted
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, show_image, to_arrays

COLUMNS = 8


def predictions_figure(
    images: Tensor, labels: Sequence[int], probabilities: Tensor, label_names: Sequence[str]
) -> Picture:
    """The images with the predicted class and how sure the model is; mistakes framed, with the true class.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        labels: B true classes.
        probabilities: (B, classes).
        label_names: Of the classes.

    Returns:
        With ``data``: ``labels``, ``predicted``, ``confidence`` and ``wrong``, B of each.

    Raises:
        InputError: The numbers do not fit, or there is no image.
    """
    if len(images) == 0 or len(labels) != len(images) or probabilities.shape != (len(images), len(label_names)):
        raise InputError(
            f"predictions_figure needs images, as many labels, and (images, {len(label_names)}) probabilities; got "
            f"{len(images)}, {len(labels)} and {tuple(probabilities.shape)}"
        )
    best = probabilities.detach().float().cpu().max(-1)
    predicted, confidence = best.indices.tolist(), best.values.tolist()
    pixels = to_arrays(images)
    columns = min(len(pixels), COLUMNS)
    rows = -(-len(pixels) // columns)
    figure = new_figure(1.45 * columns + 0.2, 1.85 * rows + 0.4, pad=0.04)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    wrong = [true != guess for true, guess in zip(labels, predicted, strict=True)]
    for index, ax in enumerate(axes):
        if index >= len(pixels):
            ax.set_visible(False)
            continue
        show_image(ax, pixels[index])
        text = f"{fitted(label_names[predicted[index]], 18, 1)}\n{confidence[index]:.0%}"
        if wrong[index]:
            frame(ax, ALERT)
            ax.set_xlabel(f"is {fitted(label_names[labels[index]], 18, 1)}", fontsize=9, color=ALERT, labelpad=3)
        ax.set_title(text, fontsize=9.5, color=ALERT if wrong[index] else INK, pad=4)
    figure.suptitle(f"{wrong.count(False)} of {len(wrong)} right; the others framed", fontsize=9, color=MUTED)
    figure.data = {"labels": list(labels), "predicted": predicted, "confidence": confidence, "wrong": wrong}
    return figure


def captions_figure(
    images: Tensor,
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    normalize: Callable[[str], str] = plain,
) -> Picture:
    """The images with the model's sentence and a reference; sentences that equal no reference framed.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        captions: B sentences of the model.
        references: B times the sentences of people, one or more; the first is shown.
        normalize: What makes sentences comparable, as of :func:`moezoo.eval.caption_metrics`.

    Returns:
        With ``data``: ``captions``, ``references`` and ``exact`` (whether a caption equals a reference).

    Raises:
        InputError: The numbers do not fit, or there is no image.
    """
    if len(images) == 0 or len(captions) != len(images) or len(references) != len(images) or not all(references):
        raise InputError(
            f"captions_figure needs a caption and one or more references for each of {len(images)} images, got "
            f"{len(captions)} and {[len(each) for each in references]}"
        )
    pixels = to_arrays(images)
    columns = min(len(pixels), 4)
    rows = -(-len(pixels) // columns)
    figure = new_figure(2.6 * columns + 0.2, 2.75 * rows + 0.3, pad=0.05)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    exact = [
        normalize(caption) in {normalize(reference) for reference in each}
        for caption, each in zip(captions, references, strict=True)
    ]
    for index, ax in enumerate(axes):
        if index >= len(pixels):
            ax.set_visible(False)
            continue
        show_image(ax, pixels[index])
        frame(ax, RUNS[2] if exact[index] else ALERT)
        ax.set_title(fitted(captions[index] or "(nothing)", 34, 3), fontsize=9, color=INK, pad=4)
        ax.set_xlabel(fitted(references[index][0], 38, 3), fontsize=8, color=MUTED, labelpad=3, fontstyle="italic")
    said = f"above: the model's, below: a reference; {sum(exact)} of {len(exact)} equal one, the others framed orange"
    figure.suptitle(said, fontsize=9, color=MUTED)
    figure.data = {"captions": list(captions), "references": [list(each) for each in references], "exact": exact}
    return figure


def frame(ax: Axes, color: str) -> None:
    """A box of that colour around an image."""
    ax.spines[:].set(visible=True, color=color, linewidth=2.5)
