"""As many experts as a token needs: between the least and the most, by a number that is learned."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import moezoo
from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, record_routing
from moezoo.moe.losses import compute_budget_loss

D, E = 6, 5


def layer(ranked=True, top_k=1, most=None, **args):
    made = MoELayer(D, num_experts=E, top_k=top_k, router="complexity", hidden_dim=4,
                    router_args={"ranked": ranked, "max_experts": most}, **args).double()  # fmt: skip
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p))
    return made


@pytest.mark.parametrize("ranked", [True, False])
@pytest.mark.parametrize(("least", "most"), [(1, None), (2, 4), (1, 2)])
@pytest.mark.parametrize("training", [True, False])
def test_a_token_has_between_the_least_and_the_most_experts(ranked, least, most, training):
    made = layer(ranked, least, most).train(training)
    x = 4 * torch.randn(300, D, dtype=torch.float64)
    routing = made.router(x)
    wanted = least + ((most or E) - least) * made.router.complexity(x)
    count = (routing.weight_by_expert() > 0).sum(-1)
    assert torch.equal(count, (wanted.ceil() if training else (wanted + 0.5).floor()).long().clamp(max=most or E))
    assert count.min() >= least
    assert count.max() <= (most or E)
    assert training or len(count.unique()) > 1
    total = routing.weight_by_expert().sum(-1)
    if ranked:
        torch.testing.assert_close(total, torch.ones_like(total))
    elif training:
        torch.testing.assert_close(total, wanted)
        assert torch.equal(routing.weight_by_expert() > 0, torch.arange(E) < count[:, None])


@pytest.mark.parametrize("ranked", [True, False])
def test_the_number_has_a_true_gradient(ranked):
    made, x = layer(ranked, 1), torch.randn(20, D, dtype=torch.float64)
    bias = made.router.complexity_bias
    made(x).square().sum().backward()
    slopes, step = [], 1e-6
    for sign in (1, -1):
        with torch.no_grad():
            bias += sign * step
            slopes.append(sign * made(x).square().sum())
            bias -= sign * step
    torch.testing.assert_close(bias.grad[0], sum(slopes) / (2 * step), rtol=1e-5, atol=1e-6)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_the_price_is_that_of_the_number_and_teaches_it():
    made, x = layer(True, 2), torch.randn(20, D, dtype=torch.float64)
    routing = made.router(x)
    price = compute_budget_loss(routing, costs=[1.0] * E)
    torch.testing.assert_close(price, routing.counts().sum() / 20)
    price.backward()
    grad = made.router.complexity_bias.grad.clone()
    made.router.zero_grad()
    (2 + (E - 2) * made.router.complexity(x)).mean().backward()
    torch.testing.assert_close(grad, made.router.complexity_bias.grad)


def test_what_is_counted_is_what_is_computed():
    made, x = layer().float().eval(), torch.randn(30, D)
    made.path = "loop"
    with record_routing(made) as records, FlopCounterMode(display=False) as counter:
        made(x)
    routing = records[0].routing
    assert E < sum(routing.expert_rows()) < 30 * E
    assert made.flops(routing) == counter.get_total_flops()


def test_impossible_numbers_are_refused():
    for args, words in [
        ({"max_experts": 2}, "max_experts=2 is not allowed: it must be above top_k=2"),
        ({"max_experts": 6}, "at most num_experts=5"),
        ({"ranked": "yes"}, "ranked='yes'"),
        ({"complexity_init": 1.0}, "complexity_init=1.0"),
        ({"complexity_dim": 0}, "complexity_dim=0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            MoELayer(D, num_experts=E, top_k=2, router="complexity", router_args=args)
    with pytest.raises(ConfigError, match="normalize=True"):
        MoELayer(D, num_experts=E, top_k=2, router="complexity", normalize=True, router_args={"ranked": False})


def test_experts_can_be_taken_away():
    made = layer(True, 1)
    moezoo.moe.prune_experts(made, data=torch.randn(40, D, dtype=torch.float64), keep=3)
    assert made.num_experts == made.router.most == 3
    made(torch.randn(4, D, dtype=torch.float64))
