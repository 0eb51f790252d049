"""Experts with norms and MLP gates by reordered weights: equal numbers, never stale, and none kept for training."""

from __future__ import annotations

import copy

import pytest
import torch

from moezoo.models.multiscale_moe.fusion import MultiScaleMoE
from moezoo.moe import packed_bytes, set_packing
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
        assert kept >= sum(p.nbytes for p in fusion.moe.experts.parameters())
        fusion.moe.experts.w_out.mul_(2.0)
        fusion.moe.router.gates.layers[0].weight.mul_(-1.0)
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
