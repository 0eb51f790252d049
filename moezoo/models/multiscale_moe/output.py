"""What the model answers when it is asked for more than features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.utils._pytree import register_dataclass

from moezoo.models.fields import FieldMapping


@dataclass(frozen=True, eq=False)
class ReidOutput(FieldMapping):
    """B sightings in M modalities, E scales. What the variant does not have is ``None``."""

    features: Tensor | None = None
    """(B, M * D) what is compared; zeros where a modality was missing."""
    logits: Tensor | None = None
    """(B, identities) scores of all modalities together; ``None`` without identities to learn."""
    pairs: list[tuple[Tensor, Tensor]] | None = None
    """In training, the (score, feature) pairs that the losses see."""
    scale_weights: Tensor | None = None
    """(B, M, E) the gate's weight of each scale, a modality's sum to one; zeros where it was missing."""
    modality_weights: Tensor | None = None
    """(B, M) the gate's weight of each modality, summing to one, where the structure has such a gate."""


register_dataclass(ReidOutput)
