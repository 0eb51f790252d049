"""What the classifier gives: transformers' own output, and in training the auxiliary losses by themselves."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers.modeling_outputs import ImageClassifierOutput


@dataclass
class MoeZooClassifierOutput(ImageClassifierOutput):
    """``loss`` holds ``aux_loss`` already: add it only to a loss of your own."""

    aux_loss: Tensor | None = None
    """() in training. Not there in evaluation, where ``Trainer`` takes all but the loss for predictions."""
