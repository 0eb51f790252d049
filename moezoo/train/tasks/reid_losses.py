"""The two losses of re-identification, of one (score, feature) pair; each a sum over the images."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def identity_loss(scores: Tensor, identities: Tensor, smoothing: float = 0.0) -> Tensor:
    """() cross-entropy of (B, C) scores with (B,) identities, ``smoothing`` of the target spread over all of them."""
    return F.cross_entropy(scores, identities, label_smoothing=smoothing, reduction="sum")


def hard_triplet_loss(features: Tensor, identities: Tensor) -> Tensor:
    """() soft-margin batch-hard triplet loss: ``log(1 + exp(far - near))`` for every image.

    ``far`` is the Euclidean distance to the farthest image of the same identity (itself, at 0, where it is the only
    one), ``near`` that to the nearest image of another. Where the batch has no other identity, the loss is 0.

    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", arXiv:1703.07737.

    Args:
        features: (B, D), as they are: nothing is normalised.
        identities: (B,).
    """
    if not len(features):
        return features.sum()
    # Not by matrix products: an image's distance to its like is small, and would drown in their rounding.
    distances = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    same = identities[:, None] == identities[None]
    far = distances.masked_fill(~same, 0.0).amax(1)
    near = distances.masked_fill(same, torch.inf).amin(1)
    return F.softplus(far - near).sum()
