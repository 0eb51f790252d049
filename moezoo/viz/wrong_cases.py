"""What a model got wrong, and where it looked when it did."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from moezoo.errors import InputError
from moezoo.viz.attention_routing import Layers, score_and_routing_figure
from moezoo.viz.decisions import Boxes
from moezoo.viz.style import MUTED, Picture


def wrong_cases_figure(
    images: Tensor,
    layers: Layers,
    labels: Sequence[int],
    probabilities: Tensor,
    label_names: Sequence[str],
    *,
    boxes: Boxes | None = None,
) -> Picture:
    """The images that were taken for another class: what they are, what was said and how surely, scores and decisions.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        layers: Of the forward of exactly these images.
        labels: B true classes.
        probabilities: (B, classes).
        label_names: Of the classes.
        boxes: B times where the thing to be found is, if known.

    Returns:
        With ``data`` as of :func:`score_and_routing_figure`, and ``labels``, ``predicted`` and ``confidence``.

    Raises:
        InputError: The numbers do not fit, or an image was not taken for another class.
    """
    if not len(images) or len(labels) != len(images) or probabilities.shape != (len(images), len(label_names)):
        raise InputError(
            f"wrong_cases_figure needs images, as many labels, and (images, {len(label_names)}) probabilities; got "
            f"{len(images)}, {len(labels)} and {tuple(probabilities.shape)}"
        )
    best = probabilities.detach().float().cpu().max(-1)
    predicted, confidence = best.indices.tolist(), best.values.tolist()
    if right := [i for i, (true, guess) in enumerate(zip(labels, predicted, strict=True)) if true == guess]:
        raise InputError(f"images {right} are no wrong cases: their predicted class is the true one")
    titles = [
        f"{label_names[true]}, read as\n{label_names[guess]} ({share:.0%})"
        for true, guess, share in zip(labels, predicted, confidence, strict=True)
    ]
    figure = score_and_routing_figure(images, layers, titles=titles, wrong=[True] * len(titles), boxes=boxes)
    figure.suptitle("mistakes, the surest first", fontsize=9, color=MUTED)
    figure.data |= {"labels": list(labels), "predicted": predicted, "confidence": confidence}
    return figure
