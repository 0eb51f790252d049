"""Merging: who is merged, how hidden units are matched, and what the router's rows become."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, merge_experts, record_routing
from moezoo.moe.surgery.similar import group_similar

D, H = 6, 10


def layer(router="sigmoid_bias", expert="mlp", num_experts=5, top_k=1, **kwargs):
    made = MoELayer(
        D, num_experts=num_experts, top_k=top_k, hidden_dim=H, router=router, expert=expert, **kwargs
    ).double()
    for p in made.parameters():
        nn.init.normal_(p, std=0.7)
    return made.eval()


@torch.no_grad()
def make_twins(made, a, b):
    """Expert b computes what a does, its hidden units in another order, and has a's row in the router."""
    order = torch.randperm(H)
    assert not torch.equal(order, torch.arange(H))
    rows = torch.cat([order, order + H]) if made.experts.gated else order
    made.experts.w_in[b], made.experts.b_in[b] = made.experts.w_in[a][rows], made.experts.b_in[a][rows]
    made.experts.w_out[b], made.experts.b_out[b] = made.experts.w_out[a][:, order], made.experts.b_out[a]
    made.router.weight[b] = made.router.weight[a]


@pytest.fixture
def x():
    return torch.randn(4, 30, D, dtype=torch.float64)


@pytest.mark.parametrize("similar_by", ["outputs", "logits", "weights"])
@pytest.mark.parametrize("expert", ["mlp", "glu"])
def test_twins_are_found_matched_and_merged_without_a_trace(expert, similar_by, x):
    made = layer(expert=expert, num_shared_experts=1)
    make_twins(made, 3, 1)
    with torch.no_grad():  # so that both are used: the bias only chooses
        made.router.weight[1] += 1e-9 * torch.randn(D)
    before, twin = made(x), copy.deepcopy(made)
    report = merge_experts(made, num_experts=4, data=x, similar_by=similar_by)
    (site,) = report.layers
    assert site.made_from == ((0,), (1, 3), (2,), (4,))
    assert min(site.use[1], site.use[3]) > 0
    torch.testing.assert_close(made(x), before, rtol=1e-6, atol=1e-6)
    assert report.preserved
    assert report.change < 1e-7
    assert (made.num_experts, made.experts.num_experts, made.router.bias.shape) == (4, 4, (4,))

    if similar_by != "weights":  # which without matching does not see that they are twins
        report = merge_experts(twin, num_experts=4, data=x, similar_by=similar_by, align=False)
        assert report.layers[0].made_from == ((0,), (1, 3), (2,), (4,))
        assert not report.preserved
        assert report.change > 0.05
        assert ((twin(x) - before).norm() / before.norm()).item() == pytest.approx(report.change)


def test_a_merged_expert_is_the_mean_by_use_and_so_is_its_row(x):
    made = layer("softmax_topk", num_experts=3, top_k=2)
    with torch.no_grad():  # the units of expert 2 lie close to those of 0, in reversed order
        made.experts.w_in[2] = made.experts.w_in[0].flip(0) + 0.01
        made.experts.b_in[2] = made.experts.b_in[0].flip(0) + 0.01
        made.experts.w_out[2] = made.experts.w_out[0].flip(1) + 0.01
    old = copy.deepcopy(made)
    with record_routing(old) as records:
        old(x)
    weight = torch.zeros(3, dtype=torch.float64).index_add(
        0, records[0].routing.expert_index, records[0].routing.weight
    )
    report = merge_experts(made, num_experts=2, data=x, by="weight")
    assert report.layers[0].made_from == ((0, 2), (1,))
    assert report.layers[0].use == pytest.approx((weight / weight.sum()).tolist())
    a, b = (weight[[0, 2]] / weight[[0, 2]].sum()).tolist()
    e = old.experts
    # The most used one gives the order.
    flip = (lambda t, axis: t.flip(axis)) if weight[0] < weight[2] else (lambda t, axis: t)
    torch.testing.assert_close(made.experts.w_in[0], flip(a * e.w_in[0] + b * e.w_in[2].flip(0), 0))
    torch.testing.assert_close(made.experts.b_in[0], flip(a * e.b_in[0] + b * e.b_in[2].flip(0), 0))
    torch.testing.assert_close(made.experts.w_out[0], flip(a * e.w_out[0] + b * e.w_out[2].flip(1), 1))
    torch.testing.assert_close(made.experts.b_out[0], a * e.b_out[0] + b * e.b_out[2])
    torch.testing.assert_close(made.router.weight[0], a * old.router.weight[0] + b * old.router.weight[2])
    for name in ("w_in", "b_in", "w_out", "b_out"):
        assert torch.equal(getattr(made.experts, name)[1], getattr(e, name)[1])
    assert torch.equal(made.router.weight[1], old.router.weight[1])


def test_merged_twins_lose_probability_in_a_softmax_as_documented(x):
    made = layer("softmax_topk", num_experts=2, normalize=False)
    make_twins(made, 0, 1)
    other = layer("softmax_topk", num_experts=3, normalize=False)
    with torch.no_grad():
        for (_, p), (_, q) in zip(made.named_parameters(), other.named_parameters(), strict=True):
            q[:2] = p
    with record_routing(other) as records:
        other(x)
        merge_experts(other, num_experts=2, data=x, similar_by="weights")
        other(x)
    z = records[0].routing.logits
    assert records[-1].routing.num_experts == 2
    torch.testing.assert_close(records[-1].routing.probs, z[:, 1:].softmax(-1))
    assert bool((records[-1].routing.probs[:, 0] < records[0].routing.probs[:, :2].sum(-1)).all())


def test_an_unused_member_leaves_the_used_one_as_it_is_and_two_unused_ones_meet_halfway(x):
    made = layer("softmax_topk", num_experts=4)
    make_twins(made, 0, 1)
    x = x.clone()
    x[..., -1] = 1.0
    with torch.no_grad():
        made.experts.w_in[3] = made.experts.w_in[2] + 0.01
        made.experts.w_out[3] = made.experts.w_out[2] + 0.01
        made.router.weight.zero_()
        made.router.weight[0, -1] = 9.0
    old = copy.deepcopy(made)
    report = merge_experts(made, num_experts=3, data=x)
    assert report.layers[0].use == (1.0, 0.0, 0.0, 0.0)
    assert report.layers[0].made_from == ((0, 1), (2,), (3,))
    assert torch.equal(made.experts.w_in[0], old.experts.w_in[0])
    assert torch.equal(made.router.weight[0], old.router.weight[0])
    report = merge_experts(made, num_experts=2, data=x, similar_by="weights")
    assert report.layers[0].made_from == ((0,), (1, 2))
    assert torch.equal(made.experts.w_out[1], (old.experts.w_out[2] + old.experts.w_out[3]) / 2)


def test_similarity_by_outputs_is_the_cosine_of_what_experts_give(x):
    made = layer(num_experts=4)
    with torch.no_grad():  # 2 gives twice what 0 does
        for name in ("w_in", "b_in"):
            getattr(made.experts, name)[2] = getattr(made.experts, name)[0]
        for name in ("w_out", "b_out"):
            getattr(made.experts, name)[2] = 2 * getattr(made.experts, name)[0]
    from moezoo.moe.surgery.observe import observe
    from moezoo.moe.surgery.similar import similarity

    seen, _ = observe(made, {"": made}, [x])
    e = made.experts
    y = [F.linear(F.gelu(F.linear(x, e.w_in[i], e.b_in[i])), e.w_out[i], e.b_out[i]).flatten() for i in range(4)]
    wanted = torch.stack([torch.stack([F.cosine_similarity(a, b, dim=0) for a in y]) for b in y])
    torch.testing.assert_close(similarity(made, seen[""], "outputs", True), wanted)
    assert wanted[0, 2].item() == pytest.approx(1.0)
    logits = F.linear(x.flatten(0, 1), made.router.weight)
    torch.testing.assert_close(similarity(made, seen[""], "logits", True), torch.corrcoef(logits.t()))


def test_groups_join_by_average_similarity_and_keep_to_those_of_the_router(x):
    chain = torch.tensor([[1, 0.9, 0.1, 0], [0.9, 1, 0.8, 0], [0.1, 0.8, 1, 0.5], [0, 0, 0.5, 1]])
    assert group_similar(chain, [0, 1, 2, 3], 2) == [[0, 1], [2, 3]]  # 2 joins 3 (0.5), not 0 and 1 (0.45)
    assert group_similar(torch.ones(4, 4), [0, 1, 2, 3], 2) == [[0, 1, 2], [3]]
    made = layer("group_limited", num_experts=4, router_args={"num_groups": 2, "top_groups": 2})
    make_twins(made, 0, 3)
    assert merge_experts(made, num_experts=2, data=x).layers[0].made_from == ((0, 1), (2, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_type_of_the_weights_stays(dtype, x):
    made = layer(top_k=2).to(dtype)
    merge_experts(made, num_experts=2, data=x.to(dtype))
    assert {p.dtype for p in made.parameters()} == {dtype}
    assert made(x.to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_experts": 5}, r"the layer: num_experts=5 is not allowed: it must be a whole number from 1 to 4"),
        ({"num_experts": 1}, r"top_k=2"),
        ({"similar_by": "output"}, r"similar_by='output' is not allowed\. Did you mean: outputs"),
        ({"align": 1}, r"align=1"),
    ],
)
def test_what_is_refused_leaves_the_layer_as_it_was(arguments, message, x):
    made = layer(top_k=2)
    state = copy.deepcopy(made.state_dict())
    with pytest.raises(ConfigError, match=message):
        merge_experts(made, **{"num_experts": 3, "data": x, **arguments})
    assert all(torch.equal(state[key], tensor) for key, tensor in made.state_dict().items())
    assert made.num_experts == made.experts.num_experts == 5
