"""Adapters of MoE libraries, each given the shared weights. What is not installed raises ImportError when it is built.

A constructor raises ``NotRun`` where the library cannot compute the workload.
"""

from __future__ import annotations

from moe_floors import DenseFFN
from moe_workloads import NotRun, Problem
from torch import Tensor, nn
from torch.nn import functional as F


def _ffns(problem: Problem) -> nn.ModuleList:
    return nn.ModuleList(DenseFFN(*ffn) for ffn in problem.ffns())


def _need_top_2(problem: Problem) -> None:
    if problem.workload.top_k != 2:
        raise NotRun("skipped: it has two experts per token only")


def _one_process() -> None:
    """A process group of this process alone, for libraries that exchange tokens whatever the number of ranks."""
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


class Tutel(nn.Module):
    """Capacity factor 0 means as much room as the fullest expert needs: nothing is dropped, all are padded to it."""

    def __init__(self, problem: Problem):
        super().__init__()
        from tutel import moe

        workload = problem.workload
        self.moe = moe.moe_layer(
            gate_type={"type": "top", "k": workload.top_k, "capacity_factor": 0.0, "fp32_gate": True},
            model_dim=workload.dim,
            experts={
                "type": "ffn",
                "num_experts_per_device": workload.num_experts,
                "hidden_size_per_expert": workload.hidden,
                "activation_fn": F.gelu,
            },
        ).to(problem.x.device, problem.x.dtype)
        experts = self.moe.experts
        experts.batched_fc1_w = nn.Parameter(problem.w_in)
        experts.batched_fc1_bias = nn.Parameter(problem.b_in)
        experts.batched_fc2_w = nn.Parameter(problem.w_out_t)
        experts.batched_fc2_bias = nn.Parameter(problem.b_out)
        self.moe.gates[0].wg.weight = nn.Parameter(problem.router)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.moe(x_TD)


class DeepSpeed(nn.Module):
    """No drops, and neither random token selection nor a sampled second expert: then it is the same function."""

    def __init__(self, problem: Problem):
        super().__init__()
        from deepspeed.moe.experts import Experts
        from deepspeed.moe.sharded_moe import MOELayer, TopKGate

        workload = problem.workload
        gate = TopKGate(
            workload.dim,
            workload.num_experts,
            k=workload.top_k,
            min_capacity=0,
            drop_tokens=False,
            use_rts=False,
            top2_2nd_expert_sampling=False,
        )
        gate.wg.weight = nn.Parameter(problem.router)
        experts = Experts(nn.Identity(), workload.num_experts)
        experts.deepspeed_experts = _ffns(problem)
        self.moe = MOELayer(gate, experts, "one", 1, workload.num_experts)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.moe(x_TD, None)


class Fairscale(nn.Module):
    """GShard's top-2 with its capacity: drops tokens, and samples the second expert."""

    def __init__(self, problem: Problem):
        super().__init__()
        from fairscale.nn.moe import MOELayer, Top2Gate

        workload = problem.workload
        _need_top_2(problem)
        if workload.tokens % workload.num_experts:
            raise NotRun("skipped: it wants the tokens divisible by the experts")
        _one_process()
        gate = Top2Gate(workload.dim, workload.num_experts)
        gate.wg.weight = nn.Parameter(problem.router)
        self.moe = MOELayer(gate, _ffns(problem))
        self.num_experts = workload.num_experts

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.moe(x_TD.view(self.num_experts, -1, x_TD.shape[1])).view_as(x_TD)


class STMoE(nn.Module):
    """st-moe-pytorch with its capacity factors; every second expert is taken, as far as there is room."""

    def __init__(self, problem: Problem):
        super().__init__()
        from st_moe_pytorch import MoE

        _need_top_2(problem)
        workload = problem.workload
        self.moe = MoE(
            workload.dim,
            num_experts=workload.num_experts,
            gating_top_n=2,
            threshold_train=1e-9,
            threshold_eval=1e-9,
            straight_through_dispatch_tensor=False,
            experts=_ffns(problem),
        ).to(problem.x.device)
        self.moe.gate.to_gates.weight = nn.Parameter(problem.router)
        self.shape = problem.images.shape

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.moe(x_TD.view(self.shape)).outputs.view_as(x_TD)


class LucidMoE(nn.Module):
    """mixture-of-experts with its capacity factors and all second experts; it has no biases."""

    def __init__(self, problem: Problem):
        super().__init__()
        from mixture_of_experts import MoE

        _need_top_2(problem)
        workload = problem.workload
        self.moe = MoE(
            workload.dim,
            num_experts=workload.num_experts,
            hidden_dim=workload.hidden,
            activation=nn.GELU,
            second_policy_train="all",
            second_policy_eval="all",
        )
        self.moe.gate.w_gating = nn.Parameter(problem.router.t().contiguous())
        self.moe.experts.w1 = nn.Parameter(problem.w_in_t)
        self.moe.experts.w2 = nn.Parameter(problem.w_out_t)
        self.shape = problem.images.shape

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.moe(x_TD.view(self.shape))[0].view_as(x_TD)


class SoftMoE(nn.Module):
    """soft-moe-pytorch: every slot is a mix of an image's tokens. Another model, with as many slots as rows here."""

    def __init__(self, problem: Problem):
        super().__init__()
        from soft_moe_pytorch import SoftMoE as Library

        workload = problem.workload
        slots = max(1, workload.top_k * workload.tokens_per_image // workload.num_experts)
        self.moe = Library(
            workload.dim,
            num_experts=workload.num_experts,
            num_slots=slots,
            expert_mult=workload.hidden // workload.dim,
        ).to(problem.x.device, problem.x.dtype)
        self.moe.experts.experts = _ffns(problem)
        self.shape = problem.images.shape

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.moe(x_TD.view(self.shape)).view_as(x_TD)
