"""V-MoE's noisy top-k (Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts", eq. 2 and appendix A)."""

from __future__ import annotations

from moezoo.moe.checks import check_bool, check_positive
from moezoo.moe.routers.softmax_topk import SoftmaxTopKRouter


class NoisyTopKRouter(SoftmaxTopKRouter):
    """``softmax(W x + noise)``, then the best K: the softmax comes first and the K weights are not renormalised.

    The noise is Gaussian with standard deviation ``sigma / E``, in training only.

    Args:
        sigma: The noise's size before the division by E; 1 in the paper.
        batch_priority: Full experts keep the tokens with the largest best probability, not the first ones (section 4):
            see :func:`~moezoo.moe.dispatch.capacity.apply_capacity`.
        normalize: ``None`` means ``False``, as in the paper.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        sigma: float = 1.0,
        batch_priority: bool = False,
        normalize: bool | None = None,
        **shared,
    ):
        noise_std = check_positive("sigma", sigma, zero=True) / num_experts
        super().__init__(dim, num_experts, noise_std=noise_std, normalize=normalize or False, **shared)
        self.priority = "score" if check_bool("batch_priority", batch_priority) else "choice"

    def set_num_experts(self, num_experts: int) -> None:
        self.noise_std *= self.num_experts / num_experts  # sigma / E
        super().set_num_experts(num_experts)
