"""What text generation returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from moezoo.models.fields import FieldMapping


@dataclass(frozen=True, eq=False)
class GenerationOutput(FieldMapping):
    """One text per row."""

    generated_ids: Tensor
    """(B, L) int64: the beginning token, the text, its end token unless it was cut at ``max_length``, padding."""
    scores: Tensor
    """(B,) float32: the sum of the log-probabilities of the generated tokens over their number (the end token counted,
    the beginning not) to the power ``length_penalty``."""
    lengths: Tensor
    """(B,) int64: tokens before the padding."""


def trimmed(ids: Tensor, scores: Tensor, lengths: Tensor) -> GenerationOutput:
    """Without the columns that are padding in every row."""
    return GenerationOutput(ids[:, : int(lengths.max())] if len(lengths) else ids[:, :1], scores, lengths)
