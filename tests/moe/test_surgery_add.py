"""Adding: which experts are copied, when the output stays, and when the report says that it does not."""

import copy

import pytest
import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, add_experts, record_routing

D = 6


def layer(router="softmax_topk", num_experts=3, top_k=1, **kwargs):
    made = MoELayer(D, num_experts=num_experts, top_k=top_k, hidden_dim=8, router=router, **kwargs).double()
    for p in made.parameters():
        nn.init.normal_(p, std=0.7)
    return made.eval()


@pytest.fixture
def x():
    return torch.randn(4, 30, D, dtype=torch.float64)


def counts(made, x):
    with record_routing(made) as records:
        made(x)
    return records[0].routing.counts()


def test_the_most_used_are_copied_first_and_old_ones_stay(x):
    made = layer()
    before = counts(made, x)
    order = before.argsort(descending=True).tolist()
    old = copy.deepcopy(made.state_dict())
    report = add_experts(made, num_new=4, data=x)
    made_from = [0, 1, 2, *order, order[0]]
    assert report.layers[0].made_from == tuple((e,) for e in made_from)
    assert all(torch.equal(tensor, old[key][made_from]) for key, tensor in made.state_dict().items())
    assert (made.num_experts, made.router.num_experts, made.experts.num_experts) == (7, 7, 7)
    after = counts(made, x)  # a token goes to its expert or to a copy of it, as their logits happen to round
    for expert in range(3):
        copies = [i for i, source in enumerate(made_from) if source == expert]
        assert after[copies].sum() == before[expert]


@pytest.mark.parametrize("router", ["softmax_topk", "sigmoid_bias"])
def test_top_1_is_preserved_where_the_weight_is_the_experts_own_or_one(router, x):
    made = layer(router)
    if router == "softmax_topk":
        made.router.normalize = True
    before = made(x)
    report = add_experts(made, num_new=2, data=x)
    torch.testing.assert_close(made(x), before)
    assert report.preserved
    assert report.change < 1e-12


def test_top_1_with_probabilities_as_weights_keeps_the_choice_and_loses_weight(x):
    made = layer()
    old = copy.deepcopy(made)
    report = add_experts(made, num_new=1, data=x)
    assert not report.preserved
    source = report.layers[0].made_from[3][0]
    with record_routing(old) as records:
        before = old(x)
        with record_routing(made) as new:
            after = made(x)
    p = records[0].routing.probs
    made_from = torch.tensor([e for (e,) in report.layers[0].made_from])
    assert torch.equal(made_from[new[0].routing.expert_index], records[0].routing.expert_index)
    torch.testing.assert_close(after.flatten(0, 1), before.flatten(0, 1) / (1 + p[:, [source]]))
    assert report.change == pytest.approx(((after - before).norm() / before.norm()).item())


def test_with_top_2_the_copy_takes_a_place_and_the_report_says_so(x):
    made = layer(top_k=2)
    report = add_experts(made, num_new=1, data=x)
    assert not report.preserved
    assert report.change > 0.01
    source = report.layers[0].made_from[3][0]
    with record_routing(made) as records:
        made(x)
    chosen = records[0].routing.expert_index.view(-1, 2).sort().values
    both = (chosen == torch.tensor([source, 3])).all(-1)
    assert both.any()


def test_noise_parts_copies_from_their_originals_and_leaves_those(x):
    made = layer()
    made.router.normalize = True
    old = copy.deepcopy(made.state_dict())
    report = add_experts(made, num_new=3, data=x, init="noise", noise_std=0.1)
    made_from = [e for (e,) in report.layers[0].made_from]
    for key, tensor in made.state_dict().items():
        assert torch.equal(tensor[:3], old[key])
        difference = tensor[3:] - old[key][made_from[3:]]
        if key.endswith(("w_in", "w_out", "router.weight")):
            assert 0.05 < difference.std() / old[key].std() < 0.2
        else:
            assert not difference.any()
    assert (counts(made, x)[3:] > 0).any()
    assert 0 < report.change < 0.5


def test_thresholds_and_selection_biases_are_copied_without_noise(x):
    for router, key in (("threshold", "threshold"), ("sigmoid_bias", "bias")):
        made = layer(router)
        with torch.no_grad():
            getattr(made.router, key).copy_(torch.arange(3.0) / 10)
        report = add_experts(made, num_new=1, data=x, init="noise")
        source = report.layers[0].made_from[3][0]
        assert getattr(made.router, key)[3] == getattr(made.router, key)[source]


def test_each_group_of_the_router_grows_at_its_end(x):
    made = layer("group_limited", num_experts=4, router_args={"num_groups": 2})
    report = add_experts(made, num_new=2, data=x)
    assert [m[0] for m in report.layers[0].made_from[:2]] == [0, 1]
    assert [m[0] for m in report.layers[0].made_from[3:5]] == [2, 3]
    assert report.layers[0].made_from[2][0] in (0, 1)
    assert report.layers[0].made_from[5][0] in (2, 3)


def test_a_dense_mixture_uses_the_new_ones_too(x):
    made = layer("dense_softmax")
    add_experts(made, num_new=1, data=x)
    assert made.top_k == 4
    assert (counts(made, x) == 120).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_new": 0}, r"num_new=0"),
        ({"init": "nosie"}, r"init='nosie' is not allowed\. Did you mean: noise"),
        ({"noise_std": 0.1}, r"noise_std=0\.1 is not allowed with init='copy'"),
        ({"init": "noise", "noise_std": 0.0}, r"noise_std=0\.0"),
    ],
)
def test_what_is_refused_leaves_the_layer_as_it_was(arguments, message, x):
    made = layer()
    state = copy.deepcopy(made.state_dict())
    with pytest.raises(ConfigError, match=message):
        add_experts(made, **{"num_new": 1, "data": x, **arguments})
    assert all(torch.equal(state[key], tensor) for key, tensor in made.state_dict().items())
