"""Steps that leave the local experts out: on the whole model's own parameters, and what they are good for."""

from __future__ import annotations

import pytest
import torch
from federated_toys import CONFIG, TRAINING, net, splits
from torch import nn

from moezoo.errors import ConfigError
from moezoo.federated import Client, FederatedMoE, Message, server_model, simulate, split_parameters
from moezoo.federated.client import _is_left_out
from moezoo.federated.server_model import SharedView
from moezoo.moe import MoELayer
from moezoo.moe.routers import step_routers


def answer_of(split_by, share, epochs=3):
    """What one client made of the toy, and its model."""
    model = net()
    split = split_parameters(model, split_by)
    training = CONFIG.training(TRAINING)
    client = Client(0, model, splits(), training, split, epochs, local_dropout=share)
    return client.train(Message(split.global_state(model), 1)), client


def test_the_view_computes_and_learns_what_the_servers_model_does_and_its_gradient_is_the_whole_models():
    whole = net().train()
    split = split_parameters(whole)
    small = server_model(whole, split, split.global_state(whole)).train()
    view = SharedView(whole, split)
    images = torch.randn(6, 1, 4, 4)
    out, expected = view.model(images), small(images)
    assert torch.equal(out, expected)
    out.square().sum().backward()
    expected.square().sum().backward()
    mine, theirs = dict(whole.named_parameters()), dict(small.named_parameters())
    for name, parameter in mine.items():
        gradient = parameter.grad
        if name in split.stacks:
            assert not gradient[2].any(), name
            gradient = gradient[:2]
        assert torch.allclose(gradient, theirs[name].grad), name
        assert theirs[name].grad.any(), name
    assert {id(p) for p in view.model.parameters()} == {id(p) for p in whole.parameters()}
    # The statistics of a batch norm are one and the same.
    assert torch.equal(whole.norm.running_mean, small.norm.running_mean)
    assert whole.norm.num_batches_tracked == 1
    assert whole.moe.num_experts == 3


@pytest.mark.parametrize(
    "options",
    [
        {"router": "multihead", "expert": "glu"},
        {"router": "attentive"},
        {"router": "sigmoid_bias"},
    ],
)
def test_any_router_with_rows_can_do_without_some_and_what_it_changes_itself_comes_back(options):
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(8, 8), MoELayer(8, num_experts=4, top_k=2, hidden_dim=4, **options))
    split = split_parameters(whole, [0])
    before = {name: buffer.clone() for name, buffer in whole.named_buffers()}
    small = server_model(whole, split, split.global_state(whole))
    view = SharedView(whole, split)
    x = torch.randn(32, 8)
    with view.buffers():
        assert torch.allclose(view.model(x), small(x))
        step_routers(view.model)
    if options["router"] == "sigmoid_bias":
        step_routers(small)
        bias = whole[1].router.bias
        assert bias[0] == before["1.router.bias"][0]
        assert torch.equal(bias[1:], small[1].router.bias)
        assert bias[1:].any()
        bias += 1.0  # by the whole model's own step
        with view.buffers():
            assert torch.equal(view.model[1].router.bias, bias[1:])


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 0.9])
def test_the_steps_that_leave_them_out_are_the_share_that_was_asked_for_evenly_spread(share):
    steps = [_is_left_out(number, share) for number in range(1, 41)]
    assert sum(steps) == round(40 * share)
    for begin in range(0, 40, 20):
        assert sum(steps[begin : begin + 20]) == round(20 * share)


def test_without_local_dropout_a_client_trains_as_if_no_expert_were_local():
    plain, client = answer_of(None, 0.0)
    merged, other = answer_of((), 0.75)  # nothing to leave out
    assert all(torch.equal(t, other.model.state_dict()[name]) for name, t in client.model.state_dict().items())
    assert plain.tokens["moe"] == merged.tokens["moe"][:2]
    dropping, third = answer_of(None, 0.75)
    assert not torch.equal(dropping.state["head.weight"], plain.state["head.weight"])
    # Four tokens an image, in three epochs of 8 steps: of 18 steps all of them go to global experts.
    assert sum(dropping.tokens["moe"]) >= 18 * 8 * 4
    assert sum(dropping.tokens["moe"]) <= 24 * 8 * 4
    assert set(dropping.state) == set(plain.state)
    assert not torch.equal(third.local["moe.experts.w_in"], client.local["moe.experts.w_in"])


class Leaning(nn.Module):
    """(B, 1, 4, 4) to (B, 4): the router sends everything to the local expert."""

    num_classes = 4

    def __init__(self):
        super().__init__()
        self.moe = FederatedMoE(17, num_local=1, num_global=2, hidden_dim=8)
        self.head = nn.Linear(17, 4)
        with torch.no_grad():
            self.moe.router.weight[2, 16] = 9.0

    def forward(self, images):
        pixels = images.flatten(1)
        return self.head(self.moe(torch.cat([pixels, torch.ones_like(pixels[:, :1])], 1)))


def test_what_is_shared_becomes_a_model_of_its_own_even_where_local_experts_take_all():
    shared, clients = {}, {}
    for share in (0.0, 0.5):
        torch.manual_seed(0)
        found = simulate(
            Leaning(), splits(), CONFIG, training=TRAINING, local_dropout=share, partition="iid", local_epochs=6
        )
        shared[share] = found.result.methods["federated"].server
        clients[share] = found.result.methods["federated"].everywhere
    assert min(clients.values()) > 0.9, clients
    assert shared[0.5] > 0.9 > shared[0.0] + 0.1, shared


def test_a_model_that_cannot_do_without_them_and_impossible_shares_are_refused():
    model = net()
    model.moe = MoELayer(8, num_experts=3, expert="modules", expert_args={"make": lambda e: nn.Linear(8, 8)})
    with pytest.raises(ConfigError, match=r"local_dropout=0\.75.*local_dropout=0 always"):
        simulate(model, splits(), CONFIG, training=TRAINING, local_experts=[-1])
    found = simulate(model, splits(), CONFIG, training=TRAINING, local_experts=[-1], local_dropout=0, rounds=1)
    assert found.result.methods["federated"].server is None
    for share in (1.0, -0.1, True):
        with pytest.raises(ConfigError, match="local_dropout="):
            simulate(net(), splits(), CONFIG, training=TRAINING, local_dropout=share)
