"""Experts with norms and MLP gates by reordered weights: equal numbers, never stale, and none kept for training."""

from __future__ import annotations

import copy

import pytest
import torch

from moezoo.models.multiscale_moe.fusion import HierarchicalMoE, MultiScaleMoE
from moezoo.moe import Routing, packed_bytes, set_packing
from moezoo.moe.dispatch.plan import make_plan
from moezoo.moe.paths.products import one_dnn

pytestmark = pytest.mark.skipif(not one_dnn(torch.zeros(1)), reason="torch has no oneDNN here")


@pytest.fixture(scope="module", params=[{}, {"top_k": 1}, {"residual_weight": 0.0}])
def fusion(request):
    torch.manual_seed(0)
    fusion = MultiScaleMoE(512, hidden_dim=512, **request.param).eval()
    with torch.no_grad():
        for p in fusion.parameters():
            p.add_(torch.randn_like(p), alpha=0.02)
    return fusion


def features(rows):
    generator = torch.Generator().manual_seed(rows)
    return [torch.randn(rows, 512, generator=generator) for _ in range(3)]


@pytest.mark.parametrize("rows", [1, 4, 5, 9, 80])
def test_packed_fusions_give_what_plain_ones_give(fusion, rows):
    plain = copy.deepcopy(fusion)
    set_packing(plain, False)
    double = copy.deepcopy(fusion).double()
    with torch.inference_mode():
        mixed, weights = fusion(features(rows))
        for other in (plain(features(rows)), double([x.double() for x in features(rows)])):
            torch.testing.assert_close(mixed, other[0].float(), rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(weights, other[1].float(), rtol=1e-4, atol=1e-4)
    assert packed_bytes(plain) == 0


def test_copies_follow_the_weights_and_are_freed_for_training(fusion):
    fusion = copy.deepcopy(fusion)
    with torch.no_grad():
        before, _ = fusion(features(9))
        kept = packed_bytes(fusion)
        matrices = [fusion.moe.router.gates.layers[0].weight, fusion.final[0].weight]
        assert kept >= sum(p.nbytes for p in (*fusion.moe.experts.parameters(), *matrices))
        fusion.moe.experts.w_out.mul_(2.0)
        fusion.moe.router.gates.layers[0].weight.mul_(-1.0)
        fusion.final[0].weight.mul_(0.5)
        after, _ = fusion(features(9))
        plain = copy.deepcopy(fusion)
        set_packing(plain, False)
        torch.testing.assert_close(after, plain(features(9))[0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after, atol=1e-2)
    assert packed_bytes(fusion) == kept
    fusion.train()
    assert packed_bytes(fusion) == 0
    with torch.no_grad():
        fusion(features(9))  # as a teacher does whose weights change at every step
    fusion(features(9))[0].sum().backward()
    assert packed_bytes(fusion) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultiScaleMoE(256, (4, 8), hidden_dim=1024, num_heads=2, gate_layers=3),
        lambda: HierarchicalMoE(256, ("RGB", "NIR"), (4, 8), hidden_dim=1024),
    ],
)
def test_gates_that_vote_and_gates_of_groups_are_packed_too(make):
    torch.manual_seed(0)
    fusion = make().eval()
    plain = copy.deepcopy(fusion)
    set_packing(plain, False)
    x = [torch.randn(70, 256) for _ in range(fusion.num_experts)]
    x = x if isinstance(fusion, MultiScaleMoE) else [x[:2], x[2:]]
    with torch.inference_mode():
        for got, expected in zip(fusion(x), plain(x), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    gates = fusion.moe.router.gates if isinstance(fusion, MultiScaleMoE) else fusion.moe.router.fine
    assert all(packed_bytes(layer) >= layer.weight.nbytes for layer in gates.layers)


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_what_goes_everywhere_is_only_written_down_when_asked_for(tokens):
    weight_TE = torch.rand(tokens, 3)
    routing = Routing.of_all(weight_TE, weight_TE.log()).replaced(samples=1)
    plan = make_plan(routing, "loop")
    assert not {"token_index", "expert_index", "dropped"} & vars(routing).keys()
    assert not {"token_index", "expert_index", "weight", "counts"} & vars(plan).keys()
    assert routing.token_index.tolist() == [t for t in range(tokens) for _ in range(3)]
    assert routing.expert_index.tolist() == [0, 1, 2] * tokens
    assert routing.dropped.tolist() == [False] * 3 * tokens
    assert plan.token_index.tolist() == [*range(tokens)] * 3
    assert plan.expert_index.tolist() == [e for e in range(3) for _ in range(tokens)]
    assert plan.counts.tolist() == [tokens] * 3
    torch.testing.assert_close(plan.weight, weight_TE.t().flatten())
    half = routing.detach().replaced(weight=routing.weight / 2)
    torch.testing.assert_close(half.weight_by_expert(), weight_TE / 2)
