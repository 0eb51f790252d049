"""The neck between the triplet loss and the classifier."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.errors import InputError


class BNNeck(nn.BatchNorm1d):
    """Batch normalisation without a shift (Luo et al. 2019, "Bag of tricks and a strong baseline for deep person
    re-identification"): the triplet loss sees what comes in, the classifier what comes out."""

    def __init__(self, dim: int):
        super().__init__(dim)
        self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        """(B, ``dim``) to (B, ``dim``).

        Raises:
            InputError: A batch of one in training, which has no statistics.
        """
        if self.training and len(x) == 1:
            raise InputError("training needs two sightings or more in a batch, got 1: the necks normalise over it.")
        return super().forward(x)
