"""Batch prioritised routing (Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts", section 4)."""

from __future__ import annotations

from moezoo.moe.routers.softmax_topk import SoftmaxTopKRouter


class BatchPrioritizedRouter(SoftmaxTopKRouter):
    """Softmax top-k without renormalisation, whose full experts keep the tokens with the largest best probability.

    What it adds shows where capacity binds: without a ``capacity_factor`` nothing is dropped and no order matters. With
    one, a token's result depends on its batch.

    Args:
        normalize: ``None`` means ``False``, as in the paper.

    The remaining arguments are :class:`~moezoo.moe.routers.SoftmaxTopKRouter`'s.
    """

    priority = "score"

    def __init__(self, dim: int, num_experts: int, *, normalize: bool | None = None, **others):
        super().__init__(dim, num_experts, normalize=normalize or False, **others)
