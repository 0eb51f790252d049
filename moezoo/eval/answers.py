"""A classifier's logits: how to get them, and which of them are an answer."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.errors import InputError


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, classes) float32 logits on the CPU, of images brought to the model's device and floating-point type.

    Raises:
        InputError: The model answers with something else.
    """
    weight = next((p for p in model.parameters() if p.is_floating_point()), images)
    output = model(images.to(weight.device, weight.dtype))
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(images):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(
            f"{type(model).__name__} must answer {len(images)} images with (images, classes) logits, got {got}"
        )
    return output.float().cpu()


def check_answers(logits: Tensor, labels: Tensor) -> None:
    """Raise :class:`InputError` unless there are N >= 1 rows of logits and as many labels among their classes."""
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            f"logits must be (N, C) with N labels and N at least 1, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"labels must be from 0 to {logits.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}"
        )


def answered(logits: Tensor) -> Tensor:
    """(N,) bool: the rows of (N, C) logits that have probabilities. A class may be ruled out by -inf."""
    return logits.softmax(-1).isfinite().all(-1)
