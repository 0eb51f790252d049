"""SpheroMoE routing against equations 10 and 11 of MoE Jetpack in double precision, with what regularises it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, set_budget
from moezoo.moe.types import Routing

D, E, S = 6, 3, 2
X = torch.randn(2, 5, D, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def sphero(widths=(8, 2, 2), **router_args):
    torch.manual_seed(0)
    layer = MoELayer(
        D,
        num_experts=len(widths),
        router="sphero",
        router_args={"num_slots": S, **router_args},
        expert="mixed",
        expert_args={"hidden_dims": list(widths)},
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return layer.double()


def by_hand(layer, x, noise=None, kept=None, key_norm=False):
    """(B, L, D), one sample after the other, in torch but with nothing of the layer's than its parameters."""
    router, out = layer.router, []
    temperature = math.exp(router.log_temperature.item())
    for b, tokens in enumerate(x):
        keys = tokens @ router.key.weight.T + router.key.bias
        if key_norm:
            keys = keys / (keys.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        queries = []
        for e in range(router.phi.shape[1]):
            for s in range(router.phi.shape[2]):
                q = router.phi[:, e, s]
                q = (q - q.mean()) / (q.var(correction=0) + router.query_norm.eps).sqrt()
                q = q * router.query_norm.weight + router.query_norm.bias
                queries.append(q / (q.square().sum() + 1e-6).sqrt())
        similar = torch.stack(queries) @ keys.T  # (slots, tokens), as in the paper
        if noise is not None:
            similar = similar + noise[b].T
        weights = (similar / temperature).exp()
        slots = (weights / weights.sum(1, keepdim=True)) @ tokens  # equation 10: over the tokens
        results = []
        for p, slot in enumerate(slots):
            expert = layer.experts.members[p // S]
            hidden = expert.fc1.weight @ slot + expert.fc1.bias
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2)))
            y = expert.fc2.weight @ hidden + expert.fc2.bias
            results.append(y if kept is None else y * kept[b, p // S])
        out.append((weights / weights.sum(0)).T @ torch.stack(results))  # equation 11: over the slots
    return torch.stack(out)


@pytest.mark.parametrize("key_norm", [False, True])
@torch.no_grad()
def test_it_is_the_papers_layer_with_core_and_universal_experts(key_norm):
    layer = sphero(normalize_keys=key_norm).eval()
    torch.testing.assert_close(layer(X), by_hand(layer, X, key_norm=key_norm), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer(X[:1]), layer(X)[:1])  # no sample depends on another
    assert not torch.allclose(layer(X), by_hand(layer, X, key_norm=not key_norm))


@torch.no_grad()
def test_noise_temperature_and_left_out_experts_in_training(monkeypatch):
    layer = sphero(temperature_init=2.0, noise_std=0.7, expert_drop=0.4).train()
    noise, chance = torch.randn(10, E, S).double(), torch.tensor([[0.9, 0.1, 0.4], [0.39, 0.8, 0.5]])
    with monkeypatch.context() as patched:
        patched.setattr(torch, "randn_like", lambda t: noise)
        patched.setattr(torch, "rand", lambda *shape, device=None: chance)
        got = layer(X)
    kept = (chance >= 0.4).double() / 0.6
    want = by_hand(layer, X, 0.7 * noise.view(2, 5, E * S), kept)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.eval()(X), by_hand(layer, X))  # neither in evaluation
    assert MoELayer(D, num_experts=4, router="sphero").router.train().noise_now() == 0.25
    soft, sharp = (sphero(temperature_init=t).eval() for t in (100.0, 0.01))
    for spread, made in ((True, soft), (False, sharp)):
        dispatch = made.router(X.flatten(0, 1), samples=2).slots.dispatch
        assert (dispatch.amax(1).mean() < 0.3) == spread


def test_every_parameter_learns_and_the_flops_are_the_formulas():
    layer = sphero(expert_drop=0.1).train()
    layer(X).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    layer.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        routing = layer.router(X.flatten(0, 1), samples=2)
    router = 2 * 10 * D * D + 2 * 10 * D * E * S  # keys, similarities
    assert counter.get_total_flops() == router
    mixing, experts = 2 * 2 * 10 * D * E * S, 2 * 2 * S * D * 2 * (8 + 2 + 2)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        layer(X)
    assert counter.get_total_flops() == layer.flops(routing) == router + mixing + experts
    again = sphero()
    again.load_state_dict(layer.state_dict(), strict=True)
    assert torch.equal(again.eval()(X), layer(X))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"temperature_init": 0.0}, "temperature_init"),
        ({"noise_std": -1.0}, "noise_std"),
        ({"expert_drop": 1.5}, "expert_drop"),
        ({"normalize_keys": 1}, "normalize_keys"),
        ({"num_slots": 0}, "num_slots"),
    ],
)
def test_what_is_out_of_range_is_refused(args, words):
    with pytest.raises(ConfigError, match=words):
        MoELayer(D, num_experts=E, router="sphero", router_args=args)


def test_the_best_scores_of_every_sample_pass_and_no_gradient_reaches_them():
    members = [nn.Linear(D, D), nn.Identity()]
    layer = MoELayer(
        D,
        num_experts=2,
        router="top_fraction",
        router_args={"fraction": 0.5},
        expert="modules",
        expert_args={"modules": members},
        aux_weights={},
    ).double()
    scores = torch.tensor([[0.2, 0.9, 0.9, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5, 0.5]], dtype=torch.float64).requires_grad_()
    x = X.clone().requires_grad_()
    y = layer(x, scores=scores)
    passed = torch.tensor([[0, 1, 1, 0, 1], [1, 1, 1, 0, 0]]).bool()  # ceil(2.5) of 5, ties to the first
    assert torch.equal(y[passed], members[0](x)[passed])
    assert torch.equal(y[~passed], x[~passed])
    y.sum().backward()
    assert scores.grad is None
    assert torch.equal(x.grad[~passed], torch.ones(4, D))
    routing: Routing = layer.router(X.flatten(0, 1), samples=2, scores=scores.flatten())
    assert torch.equal(routing.probs[:, 0], scores.flatten())
    assert routing.weight.unique().tolist() == [1.0]
    set_budget(layer, 0.0)
    assert torch.equal(layer(x, scores=scores), x)
    with pytest.raises(InputError, match="needs scores="):
        layer(x)
    with pytest.raises(ConfigError, match="between two experts"):
        MoELayer(D, num_experts=3, router="top_fraction")
