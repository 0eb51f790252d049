"""What draws an image and its text together: functions of pooled features, float32 scalars."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.precision import without_autocast

MAX_SCALE = 100.0
"""The similarities are multiplied with at most this (Radford et al. 2021, "CLIP", 2.5)."""


def alignment_loss(image: Tensor, text: Tensor) -> Tensor:
    """``-mean_i cos(image_i, text_i)``, from -1 to 1; 0 for no pairs.

    Args:
        image: (B, D) pooled features.
        text: (B, D) of their texts.
    """
    return -F.cosine_similarity(image.float(), text.float(), dim=-1).sum() / max(image.shape[0], 1)


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor | float, same: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE (Radford et al. 2021, "CLIP", fig. 3) with several positives (Khosla et al. 2020, eq. 2).

    With ``s_ij = scale cos(image_i, text_j)`` and ``P_i`` the j that are ``same`` as i, an image's loss is
    ``-1/|P_i| sum_{j in P_i} log softmax(s_i)_j``; a text's likewise over the columns; the mean of all 2 B. With one
    positive each it is CLIP's loss: ``log B`` for equal similarities. 0 for no pairs.

    Args:
        image: (B, D) pooled features.
        text: (B, D) of their texts.
        scale: One over the temperature.
        same: (B, B) bool, which pairs belong together, their own among them; ``None`` means their own alone.
    """
    if image.shape[0] == 0:
        return (image.float().sum() + text.float().sum()) * 0
    with without_autocast(image):
        score = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        positive = torch.eye(len(score), device=score.device) if same is None else same.float()
        rows = (positive * score.log_softmax(1)).sum(1) / positive.sum(1)
        columns = (positive * score.log_softmax(0)).sum(0) / positive.sum(0)
        return -(rows + columns).mean() / 2


def bounded_scale(log_scale: Tensor) -> Tensor:
    """``min(exp(log_scale), 100)``. At the bound its gradient only leads back below, so that it cannot get stuck."""
    return _Bounded.apply(log_scale.float(), math.log(MAX_SCALE)).exp()


def same_pairs(ids: Tensor, mask: Tensor | None, labels: Tensor | None = None) -> Tensor:
    """(B, B) bool: pairs whose texts are equal token for token, padding aside, or whose labels are.

    Args:
        ids: (B, L) token ids.
        mask: (B, L) bool, True for real tokens.
        labels: (B,) classes.
    """
    words = ids if mask is None else ids.masked_fill(~mask, -1)
    same = (words[:, None] == words[None]).all(-1)
    return same if labels is None else same | (labels[:, None] == labels[None])


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(value: Tensor, limit: float) -> Tensor:
        return value.clamp(max=limit)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        value, limit = inputs
        ctx.save_for_backward(value >= limit)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (at_limit,) = ctx.saved_tensors
        # A step goes against the gradient: a negative one would go beyond.
        return torch.where(at_limit, grad.clamp_min(0), grad), None
