"""Other ways to compute the same mixture, as modules from (T, D) to (T, D): plain PyTorch and transformers."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from moe_floors import DenseFFN
from moe_library_peers import DeepSpeed, Fairscale, LucidMoE, SoftMoE, STMoE, Tutel
from moe_workloads import NotRun, Problem, route
from torch import Tensor, nn
from torch.nn import functional as F

GATHER_LIMIT = 4e9
"""Bytes of gathered weights above which ``transformers_batched`` is not run."""


class NaiveMask(nn.Module):
    """The usual loop: for each expert find its tokens, compute them, add them in."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.top_k, self.router = problem.workload.top_k, nn.Parameter(problem.router)
        self.experts = nn.ModuleList(DenseFFN(*ffn) for ffn in problem.ffns())

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TK, expert_TK = route(x_TD, self.router, self.top_k)
        weight_TK = weight_TK.to(x_TD.dtype)
        out_TD = torch.zeros_like(x_TD)
        for e, expert in enumerate(self.experts):
            token, place = torch.where(expert_TK == e)
            out_TD.index_add_(0, token, expert(x_TD[token]) * weight_TK[token, place, None])
        return out_TD


class AllExperts(NaiveMask):
    """Every expert on every token, unchosen ones with weight zero."""

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TK, expert_TK = route(x_TD, self.router, self.top_k)
        weight_TE = weight_TK.new_zeros(len(x_TD), len(self.experts)).scatter(1, expert_TK, weight_TK).to(x_TD.dtype)
        out_TD = torch.zeros_like(x_TD)
        for e, expert in enumerate(self.experts):
            out_TD = out_TD + expert(x_TD) * weight_TE[:, e, None]
        return out_TD


class Transformers(nn.Module):
    """transformers' own expert functions, with GELU in place of GPT-OSS's gated activation.

    GPT-OSS's experts are its only ones with biases on both products, as these have.
    """

    implementation = "eager"

    def __init__(self, problem: Problem):
        super().__init__()
        from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

        class GeluExperts(GptOssExperts):
            def _apply_gate(self, h: Tensor) -> Tensor:
                return F.gelu(h)

        workload = problem.workload
        config = SimpleNamespace(
            hidden_size=workload.dim,
            intermediate_size=workload.hidden,
            num_local_experts=workload.num_experts,
            swiglu_alpha=0.0,
            swiglu_limit=0.0,
            _experts_implementation=self.implementation,
        )
        with torch.device("meta"):
            self.experts = GeluExperts(config)
        self.experts.gate_up_proj = nn.Parameter(problem.w_in_t)
        self.experts.gate_up_proj_bias = nn.Parameter(problem.b_in)
        self.experts.down_proj = nn.Parameter(problem.w_out_t)
        self.experts.down_proj_bias = nn.Parameter(problem.b_out)
        self.top_k, self.router = workload.top_k, nn.Parameter(problem.router)

    def forward(self, x_TD: Tensor) -> Tensor:
        weight_TK, expert_TK = route(x_TD, self.router, self.top_k)
        return self.experts(x_TD, expert_TK, weight_TK.to(x_TD.dtype))


class TransformersGrouped(Transformers):
    """Rows sorted by expert through ``grouped_mm``."""

    implementation = "grouped_mm"


class TransformersBatched(Transformers):
    """A copy of the weights for each assignment."""

    implementation = "batched_mm"

    def __init__(self, problem: Problem):
        workload = problem.workload
        gathered = 2 * workload.rows * workload.dim * workload.hidden * problem.x.element_size()
        if gathered > GATHER_LIMIT:
            raise NotRun(f"skipped: it would gather {gathered / 1e9:.0f} GB of weights")
        super().__init__(problem)


PEERS: dict[str, type[nn.Module]] = {
    "transformers_grouped": TransformersGrouped,
    "transformers_eager": Transformers,
    "transformers_batched": TransformersBatched,
    "naive_mask": NaiveMask,
    "all_experts": AllExperts,
    "tutel": Tutel,
    "deepspeed": DeepSpeed,
    "fairscale": Fairscale,
    "st_moe": STMoE,
    "lucid_moe": LucidMoE,
    "soft_moe": SoftMoE,
}
OTHER_FUNCTION = frozenset({"soft_moe"})
"""Peers that have no assignments to drop: equal FLOPs are all that they share."""
