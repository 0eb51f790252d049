"""From tokens to one vector."""

from __future__ import annotations

from torch import Tensor


def masked_mean(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, L, D) to (B, D): the mean over the tokens that ``mask`` (B, L) marks, or all."""
    if mask is None:
        return x.mean(1)
    share = mask.to(x.dtype) / mask.sum(1, keepdim=True).to(x.dtype)
    return (x * share[..., None]).sum(1)
