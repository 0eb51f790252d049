"""Routers that change by rule after the optimiser's step: what they count, when, and how far they move."""

from __future__ import annotations

import copy
import os
import tempfile

import pytest
import torch
from router_cases import build, route
from torch import nn
from torch.utils.checkpoint import checkpoint

from moezoo.moe import MoELayer
from moezoo.moe.routers import step_routers

ADAPTIVE = ("group_limited", "relu", "sigmoid_bias")


def counts_of(layer, x):
    return route(layer, x).counts(dropped=True).to(torch.int64)


def tokens(*shape):
    return torch.randn(*shape, 4, dtype=torch.float64)


def test_the_bias_rises_where_the_load_is_below_the_mean_and_falls_where_it_is_above():
    layer = build("sigmoid_bias", num_experts=4, top_k=2)
    counts = counts_of(layer, tokens(1, 31)).double()
    step_routers(layer)
    torch.testing.assert_close(layer.router.bias, (1e-3 * (counts.mean() - counts).sign()).float(), rtol=0, atol=0)
    assert layer.router.bias.abs().sum() > 0


def test_a_load_at_the_mean_leaves_its_bias_alone():
    layer = build("sigmoid_bias", num_experts=3, top_k=1, router_args={"bias_rate": 0.5})
    layer.router.tally.copy_(torch.tensor([2, 5, 8, 15]))
    step_routers(layer)
    assert layer.router.bias.tolist() == [0.5, 0.0, -0.5]


def test_recentring_keeps_the_sum_of_the_biases():
    for recentre, expected in ((False, [0.5, 0.5, 0.5, -0.5]), (True, [0.25, 0.25, 0.25, -0.75])):
        args = {"bias_rate": 0.5, "recentre": recentre}
        layer = build("sigmoid_bias", num_experts=4, top_k=1, router_args=args)
        layer.router.tally.copy_(torch.tensor([1, 1, 1, 9, 12]))
        step_routers(layer)
        assert layer.router.bias.tolist() == expected


def test_the_bias_chooses_and_never_weighs():
    layer = build("sigmoid_bias", num_experts=4, top_k=1, router_args={"route_scale": 1.0}).eval()
    x = tokens(1, 20)
    layer.router.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0]))
    routing = route(layer, x)
    assert routing.expert_index.tolist() == [2] * 20
    torch.testing.assert_close(routing.weight, routing.logits.sigmoid()[:, 2])
    assert not any(name.endswith("bias") for name, _ in layer.router.named_parameters())
    assert "bias" in layer.router.state_dict()


def test_the_bias_evens_out_a_collapsed_load():
    layer = build("sigmoid_bias", num_experts=4, top_k=1, router_args={"bias_rate": 0.02})
    with torch.no_grad():
        layer.router.weight[0] += 2
    x = tokens(1, 400) + 1
    first = counts_of(layer, x)
    for _ in range(100):
        layer(x)
        step_routers(layer)
    last = counts_of(layer, x)
    assert first.max() > 250
    assert last.max() < 140


@pytest.mark.parametrize("name", ADAPTIVE)
def test_several_forwards_before_a_step_count_as_one_large_one(name):
    layer = build(name)
    x = tokens(4, 9)
    large = copy.deepcopy(layer)
    for half in x.chunk(2):
        layer(half).sum().backward()
    large(x).sum().backward()
    assert torch.equal(layer.router.tally, large.router.tally)
    assert layer.router.tally[-1] == 36
    step_routers(layer)
    step_routers(large)
    assert layer.router.tally.tolist() == [0] * 5
    for ours, theirs in zip(layer.buffers(), large.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ADAPTIVE)
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_a_recomputation_counts_nothing(name, use_reentrant):
    layer = build(name)
    x = tokens(2, 9).requires_grad_()
    checkpoint(layer, x, use_reentrant=use_reentrant).sum().backward()
    assert layer.router.tally[-1] == 18
    assert layer.router.weight.grad is not None


@pytest.mark.parametrize("name", ADAPTIVE)
def test_evaluation_counts_nothing_and_a_step_without_counts_moves_nothing(name):
    layer = build(name).eval()
    before = [b.clone() for b in layer.buffers()]
    layer(tokens(2, 9))
    assert not layer.router.tally.any()
    step_routers(layer)
    assert all(torch.equal(b, a) for b, a in zip(before, layer.buffers(), strict=True))


@pytest.mark.parametrize("name", ADAPTIVE)
def test_dropped_assignments_are_part_of_the_load(name):
    layer = build(name, capacity_factor=0.25)
    counts = counts_of(layer, tokens(2, 20))
    assert torch.equal(layer.router.tally[:-1], counts)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_state_stays_float32_in_half_precision_and_survives_saving(name):
    layer = build(name)
    state = {key: torch.full_like(b, 0.1234567) for key, b in layer.router.named_buffers()}
    layer.router.load_state_dict({**layer.router.state_dict(), **state})
    for cast in (layer.bfloat16(), layer.half(), layer.to("cpu", torch.bfloat16), layer.double()):
        for key, b in cast.router.named_buffers():
            assert b.dtype == torch.float32
            assert torch.equal(b, state[key])
    assert set(state) <= set(layer.router.state_dict())
    assert "tally" not in layer.router.state_dict()


def test_the_relu_penalty_is_the_balanced_l1_norm_with_its_gradient():
    layer = build("relu", num_experts=4, top_k=2, router_args={"l1_coefficient": 0.5})
    x = tokens(1, 15)
    routing = route(layer, x)
    weight = layer.router.weight.detach().clone().requires_grad_()
    gates = (x[0] @ weight.T).relu()
    load = (gates > 0).double().sum(0) / (15 * 2)
    expected = 0.5 * 4 * sum(gates[:, e].mean() * load[e] for e in range(4))
    torch.testing.assert_close(routing.penalty, expected)
    torch.testing.assert_close(
        torch.autograd.grad(routing.penalty, layer.router.weight)[0], torch.autograd.grad(expected, weight)[0]
    )
    assert route(layer.eval(), x).penalty is None


def test_the_relu_coefficient_grows_while_too_many_experts_are_used_and_shrinks_otherwise():
    layer = build("relu", num_experts=4, top_k=2, router_args={"l1_coefficient": 1.0, "l1_growth": 1.25})
    router = layer.router
    for tally, expected in (([9, 9, 3, 0, 10], 1.25), ([5, 5, 5, 5, 10], 1.0), ([1, 0, 0, 0, 10], 0.8)):
        router.tally.copy_(torch.tensor(tally))
        step_routers(layer)
        assert router.coefficient.item() == pytest.approx(expected)


def test_the_relu_penalty_drives_the_number_of_experts_to_top_k():
    router = build("relu", num_experts=8, top_k=2, router_args={"l1_coefficient": 0.1}).router
    optimiser = torch.optim.SGD(router.parameters(), lr=0.05)
    x = tokens(100) + 1.5  # a plain linear gate is open for half of centred tokens, whatever its weight
    used = []
    for _ in range(80):
        routing = router(x)
        used.append(routing.counts().sum().item() / 100)
        optimiser.zero_grad()
        routing.penalty.backward()
        optimiser.step()
        step_routers(router)
    assert used[0] > 2.5
    assert min(used) <= 2.1


def _worker(rank: int, path: str, out: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    torch.manual_seed(0)
    layer = MoELayer(4, num_experts=4, top_k=2, router="sigmoid_bias", hidden_dim=5)
    model = nn.parallel.DistributedDataParallel(layer)
    torch.manual_seed(10 + rank)
    for _ in range(2):
        model(torch.randn(1, 7 + rank, 4)).sum().backward()
    torch.save(layer.router.tally, f"{out}/{rank}.before")
    step_routers(model)
    torch.save(layer.router.bias, f"{out}/{rank}.after")
    torch.distributed.destroy_process_group()


def test_counts_are_summed_over_processes():
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(_worker, (os.path.join(folder, "store"), folder), nprocs=2)
        before = [torch.load(f"{folder}/{rank}.before") for rank in range(2)]
        after = [torch.load(f"{folder}/{rank}.after") for rank in range(2)]
    assert [tally[-1].item() for tally in before] == [14, 16]
    counts = (before[0] + before[1])[:-1].double()
    assert torch.equal(after[0], (1e-3 * (counts.mean() - counts).sign()).float())
    assert torch.equal(after[0], after[1])
