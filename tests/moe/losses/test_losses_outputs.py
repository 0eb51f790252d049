"""Experts that say different things: a loss on their outputs, with all that auxiliary losses promise."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, Routing, aux_loss, collect_aux, record_routing
from moezoo.moe.aux import mark_root
from moezoo.moe.losses import output_diversity_loss

D, E = 6, 4
WEIGHTS = {"output_diversity": 1.0}


def reference(outputs, kept):
    """Mean over tokens of the mean over pairs of squared correlations."""
    total = 0.0
    for y, there in zip(outputs, kept, strict=True):
        rows = [row for row, used in zip(y, there, strict=True) if used]
        pairs = [np.corrcoef(a, b)[0, 1] ** 2 for i, a in enumerate(rows) for b in rows[:i]]
        total += np.mean(pairs) if pairs else 0.0
    return total / len(outputs)


def layer(router="mlp_gate", **args):
    made = MoELayer(D, num_experts=E, router=router, hidden_dim=5, aux_weights=WEIGHTS, **args).double()
    with torch.no_grad():
        for p in made.parameters():
            p.copy_(torch.randn_like(p))
    return made


def each(made, x):
    e = made.experts
    h = nn.functional.gelu(torch.einsum("td,ehd->teh", x, e.w_in) + e.b_in)
    return torch.einsum("teh,edh->ted", h, e.w_out) + e.b_out


@pytest.mark.parametrize(
    ("router", "args"),
    [
        ("mlp_gate", {"router_args": {"dropout": 0.0}}),
        ("softmax_topk", {"top_k": 2}),
        ("softmax_topk", {"top_k": 1}),
        ("complexity", {}),
        ("softmax_topk", {"top_k": 2, "capacity_factor": 0.6}),
    ],
)
@pytest.mark.parametrize("path", ["loop", "sorted", "grouped", "batched"])
def test_it_is_the_mean_squared_correlation_of_a_tokens_experts(router, args, path):
    made, x = layer(router, path=path, **args), torch.randn(11, D, dtype=torch.float64)
    with record_routing(made) as records:
        made(x)
    kept = records[0].routing.weight_by_expert() > 0
    expected = reference(each(made, x).detach().numpy(), kept.numpy())
    assert aux_loss(made).item() == pytest.approx(expected, abs=1e-12)
    assert expected or args.get("top_k") == 1


def test_it_depends_neither_on_the_batch_size_nor_on_one_hot_weights():
    outputs = torch.randn(5, E, 8, dtype=torch.float64)
    routing = Routing.of_all(torch.eye(E, dtype=torch.float64)[torch.arange(5) % E], torch.zeros(5, E))
    once = output_diversity_loss(outputs, routing)
    eight = Routing.of_all(torch.full((40, E), 1 / E, dtype=torch.float64), torch.zeros(40, E))
    torch.testing.assert_close(output_diversity_loss(outputs.repeat(8, 1, 1), eight), once)
    assert 0 < once < 1
    alike = outputs[:, :1].expand(-1, E, -1)
    for scale in (-3, 1e-3):  # small outputs are no way round it
        assert output_diversity_loss(scale * alike, routing).item() == pytest.approx(1)
    dead = torch.zeros(5, E, 8, requires_grad=True)
    output_diversity_loss(dead, routing).backward()
    assert dead.grad.isfinite().all()
    nothing = Routing.of_all(torch.zeros(0, E), torch.zeros(0, E))
    assert output_diversity_loss(torch.zeros(0, E, 8), nothing) == 0


def test_every_call_counts_and_none_stays():
    made, x = layer(router_args={"dropout": 0.0}), torch.randn(3, 5, D, dtype=torch.float64)
    root = nn.Sequential(made)
    singles = []
    for one in x:
        root(one)
        singles.append(aux_loss(root))
    torch.testing.assert_close(aux_loss(root), singles[-1])
    with collect_aux(root) as aux:
        for one in x:
            root(one)
        torch.testing.assert_close(aux(), torch.stack(singles).mean())
    root(x[0])
    assert len(made.aux.calls) == 1
    root.eval()
    root(x[0])
    assert aux_loss(root) == 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_attached_under_checkpointing_the_gradient_is_that_of_the_sum(reentrant):
    made, x = layer(router_args={"dropout": 0.0}), torch.randn(7, D, dtype=torch.float64, requires_grad=True)
    (made(x).square().sum() + aux_loss(made)).backward()
    expected = [p.grad for p in made.parameters()]
    twin = copy.deepcopy(made)
    twin.zero_grad()
    twin.aux.attached = True
    mark_root(twin)
    checkpoint(twin, x, use_reentrant=reentrant).square().sum().backward()
    for p, grad in zip(twin.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_experts_that_mix_tokens_have_no_output_for_a_token():
    with pytest.raises(ConfigError, match="output_diversity"):
        MoELayer(D, num_experts=E, router="soft", aux_weights=WEIGHTS)
    with pytest.raises(ConfigError, match=r"'output_diversity' has no argument 'kind'"):
        MoELayer(D, num_experts=E, aux_weights=WEIGHTS, aux_args={"output_diversity": {"kind": "x"}})


def test_it_learns_to_make_experts_differ():
    made, x = layer(router_args={"dropout": 0.0}), torch.randn(64, D, dtype=torch.float64)
    with torch.no_grad():
        for p in made.experts.parameters():
            p.copy_(p[:1].expand_as(p) + 0.05 * torch.randn_like(p))
    optimiser = torch.optim.Adam(made.parameters(), 0.02)
    seen = []
    for _ in range(40):
        made(x)
        loss = aux_loss(made)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        seen.append(loss.item())
    assert seen[0] > 0.7
    assert seen[-1] < 0.3
