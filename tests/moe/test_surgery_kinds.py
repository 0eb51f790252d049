"""Surgery on experts with norms and a residual, and on layers whose experts read sources of their own."""

import copy

import pytest
import torch
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.models.multiscale_moe.fusion import CrossModalMoE, DynamicMoE, HierarchicalMoE, MultiScaleMoE
from moezoo.moe import MoELayer, add_experts, merge_experts, prune_experts

D, H = 6, 5
SMALL = {"hidden_dim": H, "dropout": 0.0}


def spread(module):
    torch.manual_seed(0)
    for p in module.parameters():
        nn.init.normal_(p, std=0.7)
    return module.double().eval()


def residual(**own):
    return spread(MoELayer(D, num_experts=4, hidden_dim=H, expert="residual_mlp", router="sigmoid_bias", **own))


def features(count=3, batch=9):
    return [torch.randn(batch, D, dtype=torch.float64) for _ in range(count)]


@pytest.fixture
def x():
    return torch.randn(30, D, dtype=torch.float64)


@pytest.mark.parametrize("own", [{}, {"residual": "identity"}, {"residual_weight": 0.0}])
def test_residual_experts_are_removed_added_and_merged(x, own):
    made = residual(expert_args=own)
    with torch.no_grad():
        made.router.weight[1], made.router.bias[1] = 0.0, -50.0
    expected = made(x)
    assert prune_experts(made, keep=3, data=x).preserved
    torch.testing.assert_close(made(x), expected)
    assert {p.shape[0] for p in made.experts.parameters()} == {3}
    assert add_experts(made, num_new=1, data=x).preserved
    torch.testing.assert_close(made(x), expected)
    order = torch.randperm(H)
    with torch.no_grad():  # the copy's hidden units in another order
        e = made.experts
        for stack in (e.w_in, e.b_in, e.norm1_weight, e.norm1_bias):
            stack[3] = stack[3][order]
        e.w_out[3] = e.w_out[3][:, order]
        made.router.weight[3] += 1e-9
    torch.testing.assert_close(made(x), expected, rtol=1e-6, atol=1e-6)
    for similar_by in ("outputs", "weights"):
        twin = copy.deepcopy(made).train()
        assert merge_experts(twin, num_experts=3, data=x, similar_by=similar_by).preserved
        assert twin.training
        torch.testing.assert_close(twin.eval()(x), expected, rtol=1e-6, atol=1e-6)


def test_experts_with_sources_keep_reading_their_own():
    fusion, given = spread(MultiScaleMoE(D, (2, 4, 8), **SMALL)), features()
    with torch.no_grad():
        fusion.moe.router.bias[0, 1] = -9.0
    old, before = copy.deepcopy(fusion), fusion(given)[1]
    report = prune_experts(fusion, keep=2, data={"features": given})  # by weight, as each is used by every token
    assert report.layers[0].made_from == ((0,), (2,))
    assert report.layers[0].use == pytest.approx(before.mean(0).tolist())
    assert fusion.num_experts == 2
    assert {p.shape[0] for p in fusion.moe.experts.parameters()} == {2}
    fused, weights = fusion(given)
    kept = before * torch.tensor([1.0, 0.0, 1.0])
    torch.testing.assert_close(weights, kept / kept.sum(1, keepdim=True))  # a column for each scale, as documented
    available = torch.tensor([True, False, True]).expand(9, -1)
    torch.testing.assert_close((fused, weights), old.mix(given, available))
    functions = [lambda t, rows=rows: rows if t is None else rows[t] for rows in given]
    again = fusion.moe(torch.cat(given, 1), sources=functions)
    torch.testing.assert_close(again, fusion.moe(torch.cat(given, 1), sources=torch.stack(given)))
    (fusion.train()(given)[0].sum() + moezoo.aux_loss(fusion)).backward()
    assert all(p.grad is not None for p in fusion.parameters())
    fusion.eval()
    for operate in ("add again", "prune again"):  # what is changed twice still knows who reads what
        if operate == "add again":
            add_experts(fusion, num_new=1, data={"features": given}, by="weight")
            copied = fusion.moe.experts.source_of[2]
            assert fusion.moe.experts.source_of == (0, 2, copied)
            assert fusion(given)[1].shape == (9, 3)
        else:
            prune_experts(fusion, keep=2, data={"features": given}, by="weight")
            assert set(fusion.moe.experts.source_of) <= {0, 2}
    with pytest.raises(InputError, match="3 are needed"):
        fusion.moe(torch.cat(given, 1), sources=torch.stack(given)[:2])
    with pytest.raises(ConfigError, match="read different sources"):
        merge_experts(fusion, num_experts=1, data={"features": given})


def test_a_removed_modality_can_no_longer_be_the_only_one():
    fusion, given = spread(CrossModalMoE(D, experts_per_modality=1, **SMALL)), features()
    with torch.no_grad():
        fusion.moe.router.bias[0, 2] = -9.0
    prune_experts(fusion, keep=2, data={"features": given}, by="weight")
    there = torch.tensor([[True, True, True]] * 8 + [[False, True, True]])
    weights = fusion(given, present=there)[1]
    assert torch.equal(weights > 0, there & torch.tensor([True, True, False]))
    with pytest.raises(InputError, match="without any expert"):
        fusion(given, present=torch.tensor([[False, False, True]] * 9))


def test_what_surgery_cannot_do_changes_nothing():
    fusion = spread(HierarchicalMoE(D, scales=(2, 4), **SMALL))
    given = [features(2) for _ in range(3)]
    before = fusion(given)
    with pytest.raises(ConfigError, match=r"HierarchicalRouter.*expert_axes"):
        prune_experts(fusion, keep=3, data={"features": given})
    torch.testing.assert_close(fusion(given), before, rtol=0, atol=0)
    fusion = spread(MultiScaleMoE(D, (2, 4, 8), top_k=2, **SMALL))
    with pytest.raises(ConfigError, match="eval_top_k=2"):
        prune_experts(fusion, keep=1, data={"features": features()}, by="weight")
    assert fusion.moe.experts.source_of is None
    assert fusion(features())[1].shape == (9, 3)


@pytest.mark.parametrize("operate", ["prune", "add"])
def test_prices_of_experts_follow_them(operate, x):
    model = spread(DynamicMoE(D, num_experts=4, min_experts=1, max_experts=3, hidden_dim=H))
    model.moe.aux.args["compute_budget"]["costs"] = [1.0, 2.0, 3.0, 4.0]
    report = (
        prune_experts(model, keep=3, data=x) if operate == "prune" else add_experts(model, num_new=1, data=x)
    ).layers[0]
    assert model.moe.aux.args["compute_budget"]["costs"] == [1.0 + e for (e,) in report.made_from]
    model.train()(x)[0].sum().backward()
    assert moezoo.aux_loss(model) > 0
