"""The average of a round against sums written out in float64."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from federated_toys import net
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moezoo.errors import InputError, NonFiniteError
from moezoo.federated import Layout, Message, expert_weighted_average, split_parameters
from moezoo.moe import MoELayer

PLAIN = Layout({}, {}, {})


def updates(images=(30, 10, 5), tokens=((7, 0), (1, 0), (0, 0))):
    """What three clients made of the toy, and what they began with."""
    model = net()
    split = split_parameters(model)
    previous = split.global_state(model)
    made = []
    for client, (number, counts) in enumerate(zip(images, tokens, strict=True)):
        generator = torch.Generator().manual_seed(client)
        state = {
            name: t + torch.rand(t.shape, generator=generator) if t.is_floating_point() else t + client + 1
            for name, t in previous.items()
        }
        made.append(Message(state, 1, client, number, {"moe": counts}))
    return made, previous, split.layout


def test_a_round_is_the_mean_by_images_and_of_experts_and_their_rows_by_tokens():
    made, previous, layout = updates()
    found = expert_weighted_average(made, previous, layout)
    assert found.keys() == previous.keys()

    def mean(name, weights, rows=slice(None)):
        values = [m.state[name].numpy().astype(np.float64)[rows] for m in made]
        return sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)

    for name in ("stem.weight", "norm.weight", "norm.running_mean", "head.bias"):
        np.testing.assert_allclose(found[name].numpy(), mean(name, (30, 10, 5)), rtol=1e-6)
    for name in ("moe.experts.w_in", "moe.experts.b_out", "moe.router.weight"):
        np.testing.assert_allclose(found[name].numpy()[0], mean(name, (7, 1, 0), 0), rtol=1e-6)
        assert torch.equal(found[name][1], previous[name][1])  # nobody used the second expert
        assert found[name].dtype == previous[name].dtype
    # Batches seen by all of them together: every client's are added to what was.
    assert found["norm.num_batches_tracked"] == previous["norm.num_batches_tracked"] + 1 + 2 + 3


def test_pooled_variances_are_those_of_all_images_together():
    torch.manual_seed(0)
    parts = [torch.randn(n, 4) * s + m for n, s, m in ((40, 1.0, 0.0), (25, 3.0, 2.0), (10, 0.5, -4.0))]
    layer = nn.Sequential(nn.BatchNorm1d(4), MoELayer(4, num_experts=2, hidden_dim=4))
    split = split_parameters(layer, ())
    previous = split.global_state(layer)
    made = []
    for client, part in enumerate(parts):
        stats = {"0.running_mean": part.mean(0), "0.running_var": part.var(0, unbiased=False)}
        made.append(Message({**previous, **stats}, 1, client, len(part), {"1": (1, 1)}))
    found = expert_weighted_average(made, previous, split.layout)
    whole = torch.cat(parts).double()
    assert torch.allclose(found["0.running_mean"].double(), whole.mean(0), atol=1e-5)
    assert torch.allclose(found["0.running_var"].double(), whole.var(0, unbiased=False), rtol=1e-5)


def test_a_single_expert_of_a_module_list_is_weighed_by_its_own_tokens():
    layer = MoELayer(4, num_experts=3, expert="modules", expert_args={"make": lambda e: nn.Linear(4, 4)})
    split = split_parameters(layer, [0])
    previous = split.global_state(layer)
    assert not any(name.startswith("experts.members.0.") for name in previous)
    made = [
        Message({n: t + 1 + client for n, t in previous.items()}, 1, client, 50, {"": counts})
        for client, counts in enumerate([(1, 9), (3, 0)])
    ]
    found = expert_weighted_average(made, previous, split.layout)
    for name, step in (("experts.members.1.weight", 1.75), ("experts.members.2.bias", 1.0)):
        assert torch.allclose(found[name], previous[name] + step, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000), st.floats(-10, 10)), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_an_average_lies_between_the_clients_whatever_their_order(clients, random):
    previous = {"plain": torch.tensor([3.0]), "rows": torch.tensor([[3.0], [4.0]])}
    layout = Layout({"rows": ("moe", 0)}, {}, {})
    made = [
        Message({n: torch.full_like(t, value) for n, t in previous.items()}, 1, k, images, {"moe": (tokens, 0)})
        for k, (images, tokens, value) in enumerate(clients)
    ]
    found = expert_weighted_average(made, previous, layout)
    values = [value for _, _, value in clients]
    assert min(values) - 1e-5 <= found["plain"].item() <= max(values) + 1e-5
    using = [value for _, tokens, value in clients if tokens]
    low, high = (min(using), max(using)) if using else (3.0, 3.0)
    assert low - 1e-5 <= found["rows"][0].item() <= high + 1e-5
    assert found["rows"][1].item() == 4.0
    random.shuffle(made)
    again = expert_weighted_average(made, previous, layout)
    assert all(torch.allclose(again[name], found[name], rtol=1e-6, atol=1e-6) for name in found)


def test_updates_that_cannot_be_averaged_are_refused_by_client_and_tensor():
    made, previous, layout = updates()

    def broken(**changes):
        return [*made[:2], dataclasses.replace(made[2], **changes)]

    nan = {**made[2].state, "head.bias": torch.full((4,), float("nan"))}
    with pytest.raises(NonFiniteError, match=r"client 2 .*'head\.bias' holds NaN"):
        expert_weighted_average(broken(state=nan), previous, layout)
    for changes, message in (
        ({"images": 0}, "client 2 .*0 images"),
        ({"client": 0}, "client 0 sent two updates"),
        ({"state": {**made[2].state, "head.bias": torch.zeros(5)}}, r"client 2 .*'head\.bias' must be"),
        ({"state": {**made[2].state, "head.bias": torch.zeros(4).double()}}, r"client 2 .*'head\.bias' must be"),
        ({"state": {n: t for n, t in made[2].state.items() if n != "head.bias"}}, r"'head\.bias', is missing"),
        ({"state": {**made[2].state, "more": torch.zeros(1)}}, "'more', is not asked for"),
        ({"tokens": {}}, "client 2 .*tokens of 'moe'"),
        ({"tokens": {"moe": (1, 2, 3)}}, "tokens of 'moe'"),
        ({"tokens": {"moe": (1, -2)}}, "tokens of 'moe'"),
    ):
        with pytest.raises(InputError, match=message):
            expert_weighted_average(broken(**changes), previous, layout)
    with pytest.raises(InputError, match="at least one"):
        expert_weighted_average([], previous, layout)
    table = {"order": torch.tensor([1, 2])}
    with pytest.raises(InputError, match="'order', whole numbers"):
        expert_weighted_average([Message({"order": torch.tensor([2, 1])}, 1, 0, 5)], table, PLAIN)


def test_a_message_comes_back_from_its_bytes_and_nothing_else_is_read():
    message = updates()[0][0]
    back = Message.from_bytes(message.to_bytes())
    assert (back.round, back.client, back.images, back.tokens) == (1, 0, 30, {"moe": (7, 0)})
    assert all(torch.equal(back.state[name], tensor) for name, tensor in message.state.items())
    for junk in (b"", b"abc", message.to_bytes()[:-5], b"\x80\x04pickle" * 20):
        with pytest.raises(InputError, match="cannot be read"):
            Message.from_bytes(junk)
