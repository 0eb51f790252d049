"""What the ranks of the tests do with single layers whose experts are spread."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.utils.checkpoint import checkpoint

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer
from moezoo.moe.parallel import apply_expert_parallel, gather_experts

DIM = 8
LAYERS: dict[str, dict[str, Any]] = {
    "loop": {"path": "loop"},
    "sorted": {"path": "sorted"},
    "batched": {"path": "batched"},
    "static": {"path": "static"},
    "dropping, shapes fixed": {"path": "static", "capacity_factor": 0.5},
    "dropping": {"path": "sorted", "capacity_factor": 0.5},
    "gated": {"expert": "glu"},
    "residual": {"expert": "residual_mlp", "expert_args": {"residual": "identity"}},
    "sources": {
        "router": "mlp_gate",
        "top_k": 4,
        "router_args": {"dropout": 0.0},
        "expert": "residual_mlp",
        "expert_args": {"in_dim": 3},
        "out_dim": DIM,
    },
    "lora": {"expert": "lora"},
    "slots": {"router": "soft", "top_k": 4},
    "threshold": {"router": "threshold", "router_args": {"min_experts": 0}},
    "expert choice": {"router": "expert_choice", "capacity_factor": 1.0},
}


def layer(**arguments: Any) -> MoELayer:
    torch.manual_seed(0)
    arguments = {"num_experts": 4, "top_k": 2, "hidden_dim": 6, **arguments}
    moe = MoELayer(DIM, **arguments).double()
    with torch.no_grad():
        moe.router.requires_grad_(True)
        for p in moe.router.parameters():
            p.mul_(10)
    return moe


def tokens(count: int) -> Tensor:
    """(1, count, DIM) of this rank."""
    generator = torch.Generator().manual_seed(dist.get_rank())
    return torch.randn(1, count, DIM, generator=generator, dtype=torch.float64)


def called(moe: MoELayer, x: Tensor) -> Tensor:
    """What ``moe`` makes of ``x``; experts with sources get a part of it each."""
    width = moe.experts.dim
    if width == DIM:
        return moe(x)
    return moe(x, sources=torch.stack([x[..., e : e + width] for e in range(moe.num_experts)]))


def run(moe: MoELayer, x: Tensor, recompute: bool = False) -> dict[str, Tensor]:
    """The output of ``x``, and the gradients of its squares."""
    x = x.clone().requires_grad_()
    y = checkpoint(called, moe, x, use_reentrant=False) if recompute else called(moe, x)
    y.square().sum().backward()
    gradients = {name: p.grad for name, p in moe.named_parameters() if p.requires_grad}
    assert all(grad is not None for grad in gradients.values())
    return {"output": y.detach(), "input": x.grad, **gradients}


def check_layers(counts: tuple[int, ...]) -> None:
    """Spread layers give every rank what whole ones give, and experts the gradients of all ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = tokens(counts[dist.get_rank()])
    for name, arguments in LAYERS.items():
        for recompute in (False, True):
            whole, spread = layer(**arguments), layer(**arguments)
            apply_expert_parallel(spread, mesh)
            assert list(spread.state_dict()) == list(whole.state_dict())
            want, got = run(whole, x), run(spread, x, recompute)
            for key, value in got.items():
                if isinstance(value, DTensor):
                    assert value.placements == (Shard(0),), key
                    value, _ = value.full_tensor(), dist.all_reduce(want[key])
                assert torch.allclose(value, want[key], rtol=0, atol=1e-12), (name, key)
            with torch.no_grad():
                assert torch.allclose(called(spread.eval(), x), called(whole.eval(), x), rtol=0, atol=1e-12), name
            gather_experts(spread)
            assert type(spread.experts) is type(whole.experts)
            assert all(torch.equal(a, b) for a, b in zip(spread.parameters(), whole.parameters(), strict=True)), name


def check_autocast() -> None:
    """Rows travel in bfloat16, and the result is what one process has in bfloat16."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = tokens(9).float()
    for name in ("sorted", "gated"):
        whole, spread = layer(**LAYERS[name]).float(), layer(**LAYERS[name]).float()
        apply_expert_parallel(spread, mesh)
        with torch.autocast("cpu", torch.bfloat16):
            want, got = run(whole, x), run(spread, x)
        assert torch.allclose(got["output"].float(), want["output"].float(), atol=2e-2), name
        assert torch.allclose(got["input"], want["input"], atol=0.1), name


def check_refusals() -> None:
    """What cannot be spread is refused before anything is changed."""
    mesh = init_device_mesh("cpu", (2,))
    odd = nn.Sequential(layer(), layer(num_experts=3))
    with pytest.raises(ConfigError, match=r"^1: 3 experts cannot be spread evenly over 2 processes.*Allowed: 1, 3\."):
        apply_expert_parallel(odd, mesh)
    assert type(odd[0].experts.w_in) is nn.Parameter
    conv = layer(expert="conv", expert_args={"grid": (1, 3)}, router="per_image")
    with pytest.raises(ConfigError, match=r"ConvExperts cannot.*Allowed: 'glu', 'lora', 'mlp', 'residual_mlp'"):
        apply_expert_parallel(conv, mesh)
    with pytest.raises(ConfigError, match="has none"):
        apply_expert_parallel(nn.Linear(2, 2), mesh)
    with pytest.raises(ConfigError, match="2 dimensions"):
        apply_expert_parallel(layer(), init_device_mesh("cpu", (1, 2), mesh_dim_names=("dp", "ep")))
    spread = layer()
    apply_expert_parallel(spread, mesh)
    with pytest.raises(ConfigError, match="already"):
        apply_expert_parallel(spread, mesh)


def check_all() -> None:
    check_layers((5, 0))
    check_layers((0, 0))
    check_autocast()
    check_refusals()
