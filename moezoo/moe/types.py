"""The one wire between router, dispatcher, experts and losses.

Shape suffixes used all over ``moezoo.moe``:

    T  tokens of the call, batch and positions flattened
    D  model width              H  hidden width of an expert
    E  routed experts           M  shared experts
    K  experts chosen per token N  assignments (token, expert); N = T * K for plain top-k
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.moe.checks import check_int


def has_values(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers, as meta and fake tensors do not."""
    return not (tensor.is_meta or isinstance(tensor, torch._subclasses.FakeTensor))


@dataclass(frozen=True)
class Routing:
    """Who computes what: N assignments of a token to an expert, with a weight.

    Assignments are token-major (t0k0, t0k1, t1k0, …). Every routing rule differs only in how it fills this in.
    """

    token_index: Tensor
    """(N,) int64: the token of each assignment."""
    expert_index: Tensor
    """(N,) int64: its expert."""
    weight: Tensor
    """(N,) the factor the expert's output is multiplied with; carries the router's gradient."""
    logits: Tensor
    """(T, E) the logits the choice was made by, noise included."""
    clean_logits: Tensor
    """(T, E) the logits before noise."""
    probs: Tensor
    """(T, E) softmax of ``logits``."""
    dropped: Tensor
    """(N,) bool: assignments that found their expert full and are not computed."""
    num_tokens: int
    num_experts: int

    @staticmethod
    def from_logits(
        logits_TE: Tensor, top_k: int, normalize: bool = True, *, clean_logits_TE: Tensor | None = None
    ) -> Routing:
        """Plain softmax top-k.

        Ties go to the expert with the lowest index, always. With ``normalize`` the K weights of a token sum to one,
        which equals a softmax over the chosen logits.

        Args:
            logits_TE: (T, E) router logits; computed on in float32 at least.
            top_k: Experts per token, 1 to E.
            normalize: Divide a token's weights by their sum.
            clean_logits_TE: The logits before noise, when ``logits_TE`` has some.

        Raises:
            ConfigError: ``top_k`` is not a whole number from 1 to E.
        """
        num_tokens, num_experts = logits_TE.shape
        top_k = check_int("top_k", top_k, low=1, high=num_experts)
        logits_TE = logits_TE.to(torch.promote_types(logits_TE.dtype, torch.float32))
        probs_TE = logits_TE.softmax(dim=-1)
        # A stable sort, not topk, whose order among equals is unspecified; of logits, since probabilities underflow to
        # ties where logits differ.
        chosen_TK = logits_TE.detach().sort(dim=-1, descending=True, stable=True).indices[:, :top_k]
        weight_TK = probs_TE.gather(1, chosen_TK)
        if normalize:
            weight_TK = weight_TK / weight_TK.sum(dim=-1, keepdim=True)
        token_TK = torch.arange(num_tokens, device=logits_TE.device)[:, None].expand(-1, top_k)
        expert_N = chosen_TK.reshape(-1)
        return Routing(
            token_index=token_TK.reshape(-1),
            expert_index=expert_N,
            weight=weight_TK.reshape(-1),
            logits=logits_TE,
            clean_logits=logits_TE if clean_logits_TE is None else clean_logits_TE,
            probs=probs_TE,
            dropped=torch.zeros_like(expert_N, dtype=torch.bool),
            num_tokens=num_tokens,
            num_experts=num_experts,
        )

    def counts(self, *, dropped: bool = False) -> Tensor:
        """(E,) float: assignments per expert; with ``dropped`` those that found it full are counted too."""
        ones_N = torch.ones_like(self.weight) if dropped else (~self.dropped).to(self.weight.dtype)
        zeros_E = torch.zeros(self.num_experts, dtype=self.weight.dtype, device=self.weight.device)
        return zeros_E.scatter_add(0, self.expert_index, ones_N.detach())

    def detach(self) -> Routing:
        """The same routing without its autograd graph."""
        tensors = {
            name: getattr(self, name).detach()
            for name in ("token_index", "expert_index", "weight", "logits", "clean_logits", "probs", "dropped")
        }
        return Routing(**tensors, num_tokens=self.num_tokens, num_experts=self.num_experts)
