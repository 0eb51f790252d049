"""A layer computes and decides on a GPU what the same layer does in float64 on the CPU."""

from __future__ import annotations

import pytest
import torch
from comparing import apart, assert_near, results, same_decisions
from engine_cases import DIM, GRID, ON_THE_REFERENCE, build, pairwise
from router_cases import CASES, SCORED, registered, types_for

from moezoo.moe import FixedCapacity, MoELayer, Routing, losses, record_routing
from moezoo.moe.routers import routers

DRAWN = {"noisy_topk", "random", "random_fraction", "shazeer_topk"}
"""In training they draw lots, of each device its own."""
EXPERTS_OF = {router: [e for r, e in ON_THE_REFERENCE if r == router] for router in CASES}


def compare(on_both, layer, name="", training=True, limit=5e-4, **inputs):
    """Output, gradients and decisions on both sides."""
    want, got = on_both(layer)
    device = next((t.device for t in [*got.parameters(), *got.buffers()]), None)
    x = torch.randn(2, *GRID, DIM).double()
    grad = torch.randn_like(x)
    if (types := types_for(name, layer, x.shape[:-1])) is not None:
        inputs["token_type"] = types
    there = {key: value.to(device) for key, value in inputs.items()}
    there |= {key: value.float() for key, value in there.items() if value.is_floating_point()}
    want.train(training), got.train(training)
    with record_routing(want) as expected, record_routing(got) as records:
        if training and name in DRAWN:
            y = got(x.float().to(device), **there)
            y.sum().backward()
            assert y.isfinite().all()
            return
        assert_near(
            results(got, x.float().to(device), grad.float().to(device), **there),
            results(want, x.float().double(), grad.float().double(), **inputs),
            limit,
        )
    same_decisions(records[0].routing, expected[0].routing)


def test_every_registered_router_has_a_case():
    assert {registered(name) for name in CASES} | SCORED == set(routers)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("router", CASES)
def test_every_router_with_every_kind_of_experts(on_both, router, training):
    for expert in EXPERTS_OF[router]:
        compare(on_both, build(router, expert), router, training)


@pytest.mark.parametrize("path", ["sorted", "batched", "packed", "grouped", "static"])
def test_every_router_and_every_kind_of_experts_on_every_path(on_both, path):
    for router, expert, its in pairwise():
        if its == path:
            compare(on_both, build(router, expert, path), router, router not in DRAWN)


OPTIONS = {
    "capacity": {"capacity_factor": 0.5},
    "capacity by a rule": {"capacity_rule": FixedCapacity(2), "eval_capacity_factor": None},
    "groups": {"group_size": 5, "capacity_factor": 1.0},
    "batch priority": {"router": "bpr_topk", "capacity_factor": 0.5},
    "skipping": {"router": "threshold"},
    "capacity in evaluation": {"capacity_factor": 2.0, "eval_capacity_factor": 0.5},
    "shared experts": {"num_shared_experts": 2},
    "gated, shared": {"expert": "glu", "num_shared_experts": 1},
    "one expert": {"num_experts": 1, "top_k": 1},
    "every loss": {"aux_weights": dict.fromkeys({*losses.AUX_LOSSES, *losses.OUTPUT_LOSSES} - {"load"}, 1.0)},
    "attached": {"aux_loss": "attached"},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_a_layer(on_both, name):
    args = {"num_experts": 4, "top_k": 2, "hidden_dim": 5, **OPTIONS[name]}
    for training in (True, False):
        for path in ("auto", "grouped", "sorted"):
            layer = MoELayer(DIM, path=path, **args)
            for p in layer.parameters():
                torch.nn.init.normal_(p)
            compare(on_both, layer, args.get("router", ""), training)


def test_scores_from_outside(on_both):
    scores = torch.rand(2, *GRID).double()
    for router, own in (("top_fraction", {"fraction": 0.5}), ("score_threshold", {})):
        layer = MoELayer(DIM, num_experts=2, router=router, router_args=own, hidden_dim=5)
        compare(on_both, layer, scores=scores)


def test_experts_that_are_not_there(on_both):
    available = torch.rand(2, *GRID, 3) < 0.6
    available[..., 1] = True
    for router in ("mlp_gate", "hierarchical"):
        layer = MoELayer(DIM, num_experts=3, top_k=3, router=router, router_args={"dropout": 0.0}, hidden_dim=5)
        compare(on_both, layer, available=available)


@pytest.mark.parametrize("rows", ["tensor", "functions"])
def test_rows_from_elsewhere(on_both, rows):
    want, got = on_both(MoELayer(DIM, num_experts=3, top_k=2, hidden_dim=5, expert="residual_mlp"))
    x, far = torch.randn(2, 5, DIM).double(), torch.randn(3, 2, 5, DIM).double()
    device = got.router.weight.device

    def sources(far):
        if rows == "tensor":
            return far
        flat = far.flatten(1, 2)
        return [lambda i: flat[0] if i is None else flat[0][i], None, lambda i: flat[2] if i is None else flat[2][i]]

    near = {"sources": sources(far)}
    there = {"sources": sources(far.float().to(device))}
    assert_near(results(got, x.float().to(device), x.float().to(device), **there), results(want, x, x, **near), 1e-4)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounded_on_the_way(on_both, dtype):
    layer = MoELayer(DIM, num_experts=4, top_k=2, hidden_dim=5, dispatch_dtype=dtype)
    compare(on_both, layer, limit=2e-2)


def test_weights_are_returned_and_dropout_drops(device):
    layer = MoELayer(DIM, num_experts=4, top_k=2, dropout=0.5).to(device)
    x = torch.randn(2, 5, DIM, device=device)
    y, weights = layer(x, return_weights=True)
    assert weights.shape == (2, 5, 4)
    assert weights.device == x.device
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 5, device=device))
    assert not torch.equal(layer(x), y)
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("router", sorted(DRAWN))
def test_lots_repeat_with_the_seed_of_the_device(device, router):
    layer = build(router, "mlp").float().to(device)
    x, found = torch.randn(2, *GRID, DIM, device=device), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(layer(x))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_losses_are_those_of_the_cpu(device):
    logits = torch.randn(40, 6)
    cpu, there = (Routing.from_logits(logits.to(where), 2) for where in ("cpu", device))
    for name, loss in losses.AUX_LOSSES.items():
        if name != "load":  # of routers with noise, which have it above
            assert apart(loss(there), loss(cpu)) < 1e-5, name


def test_equal_logits_go_to_the_lowest_index(device):
    routing = Routing.from_logits(torch.zeros(500, 8, device=device), 3)
    assert torch.equal(routing.expert_index.view(500, 3).cpu(), torch.arange(3).expand(500, 3))
