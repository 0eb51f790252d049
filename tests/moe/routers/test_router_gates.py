"""The gates of few experts with sources: MLP, several heads, two levels; what they skip, and what is missing."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, record_routing
from moezoo.moe.routers import build_router

D, E, T = 8, 3, 6


def gate(name="mlp_gate", dim=D, experts=E, **args):
    router = build_router(name, dim, experts, top_k=1, normalize=None, capacity_factor=None, router_args=args).double()
    with torch.no_grad():
        for p in router.parameters():
            p.copy_(torch.randn_like(p))
    return router.eval()


def weights(router, x, **args):
    return router(x, **args).weight_by_expert()


def head(router, x, g=0):
    """One gate's logits, written out."""
    for layer in router.gates.layers:
        x = F.gelu(F.layer_norm(x @ layer.weight[g].T + layer.bias[g], layer.bias.shape[1:], layer.norm_weight[g],
                                layer.norm_bias[g]))  # fmt: skip
    return x @ router.weight[g].T + router.bias[g]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("heads", [1, 4])
def test_weights_are_the_mean_of_the_heads_softmaxes(layers, heads):
    router, x = gate(gate_layers=layers, num_heads=heads, temperature=0.7), torch.randn(T, D, dtype=torch.float64)
    expected = torch.stack([(head(router, x, g) / 0.7).softmax(-1) for g in range(heads)]).mean(0)
    torch.testing.assert_close(weights(router, x), expected)
    torch.testing.assert_close(expected.sum(-1), torch.ones(T, dtype=torch.float64))
    assert len(router.gates.layers) == layers - 1


def test_a_cold_gate_takes_one_expert_and_a_hot_one_all_alike():
    router, x = gate(), torch.randn(T, D, dtype=torch.float64)
    best = weights(router, x).argmax(-1)
    router.temperature = 1e-6
    torch.testing.assert_close(weights(router, x), F.one_hot(best, E).double())
    router.temperature = 1e6
    torch.testing.assert_close(weights(router, x), torch.full((T, E), 1 / E, dtype=torch.float64), atol=1e-4, rtol=0)


def test_two_levels_multiply_and_a_fine_gate_sees_its_own_part():
    router, x = gate("hierarchical", experts=6, num_groups=2), torch.randn(T, D, dtype=torch.float64)
    before = weights(router, x).unflatten(-1, (2, 3))
    torch.testing.assert_close(before.sum((1, 2)), torch.ones(T, dtype=torch.float64))
    other = torch.cat([torch.randn(T, D // 2, dtype=torch.float64), x[:, D // 2 :]], 1)
    after = weights(router, other).unflatten(-1, (2, 3))
    within = [w / w.sum(-1, keepdim=True) for w in (before, after)]
    torch.testing.assert_close(within[0][:, 1], within[1][:, 1])  # the second group's part is as it was
    assert not torch.allclose(within[0][:, 0], within[1][:, 0])
    assert not torch.allclose(before.sum(-1), after.sum(-1))


@pytest.mark.parametrize("args", [{"eval_top_k": 2}, {"threshold": 0.34}, {"eval_top_k": 2, "threshold": 0.3}])
def test_in_evaluation_unimportant_experts_are_left_out_and_the_rest_sums_to_one(args):
    router, x = gate(**args), 0.3 * torch.randn(40, D, dtype=torch.float64)
    full = router(x).probs
    kept = weights(router, x)
    ranks = full.argsort(-1, descending=True).argsort(-1)
    expected = (ranks < args.get("eval_top_k", E)) & (full >= args.get("threshold", 0.0)) | (ranks == 0)
    assert torch.equal(kept > 0, expected)
    assert expected.sum() < 40 * E
    torch.testing.assert_close(kept, full * expected / (full * expected).sum(-1, keepdim=True))
    router.train()
    assert router(x).everything  # learns with all


@pytest.mark.parametrize("name", ["mlp_gate", "hierarchical"])
@pytest.mark.parametrize("heads", [1, 2])
def test_unavailable_experts_weigh_nothing_and_the_rest_is_as_if_they_never_were(name, heads):
    own = {"num_groups": 3} if name == "hierarchical" else {}
    router, x = gate(name, dim=9, num_heads=heads, **own), torch.randn(T, 9, dtype=torch.float64)
    there = torch.rand(T, E) < 0.5
    there[:, 0] |= ~there.any(-1)
    got, full = weights(router, x, available=there), weights(router, x)
    assert torch.equal(got > 0, there)
    torch.testing.assert_close(got.sum(-1), torch.ones(T, dtype=torch.float64))
    if heads == 1:
        torch.testing.assert_close(got, full * there / (full * there).sum(-1, keepdim=True))
    with pytest.raises(InputError, match="without any expert"):
        router(x, available=torch.zeros(T, E, dtype=torch.bool))


def test_what_a_router_cannot_leave_out_is_said():
    x = torch.randn(T, D)
    with pytest.raises(InputError, match="takes no available="):
        MoELayer(D, num_experts=E)(x, available=torch.ones(T, E, dtype=torch.bool))
    layer = MoELayer(D, num_experts=E, router="mlp_gate")
    with pytest.raises(InputError, match=r"available must be bool \(6, 3\)"):
        layer(x, available=torch.ones(T, 2, dtype=torch.bool))
    for args, words in [
        ({"gate_layers": 4}, "gate_layers=4"),
        ({"eval_top_k": 4}, "eval_top_k=4"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"temperature": 0}, "temperature=0"),
        ({"num_heads": 0}, "num_heads=0"),
    ]:
        with pytest.raises(ConfigError, match=words):
            MoELayer(D, num_experts=E, router="mlp_gate", router_args=args)
    with pytest.raises(ConfigError, match="set eval_top_k"):
        MoELayer(D, num_experts=E, router="mlp_gate", top_k=2)
    with pytest.raises(ConfigError, match="num_groups=2"):
        MoELayer(D, num_experts=3, router="hierarchical", router_args={"num_groups": 2})


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.rows = nn.Linear(4, 4), 0

    def forward(self, x):
        self.rows += len(x)
        return self.fc(x)


def test_skipped_experts_are_neither_called_nor_counted():
    experts = [Counting() for _ in range(E)]
    layer = MoELayer(12, num_experts=E, router="mlp_gate", router_args={"eval_top_k": 1}, out_dim=4,
                     expert="modules", expert_args={"modules": experts, "in_dims": [4] * E}).eval()  # fmt: skip
    x = torch.randn(9, 12)
    with record_routing(layer) as records:
        layer(x, sources=x.view(9, E, 4).transpose(0, 1))
    routing = records[0].routing
    assert [e.rows for e in experts] == routing.expert_rows() == routing.counts().long().tolist()
    assert sum(e.rows for e in experts) == 9
    assert layer.flops(routing) == layer.router.flops(routing) + 9 * 2 * 16


@pytest.mark.parametrize("expert", ["residual_mlp", "modules", "mlp"])
def test_every_form_of_sources_gives_the_same_on_every_path(expert):
    make = {"modules": [nn.Linear(4, 4) for _ in range(E)], "in_dims": [4] * E}
    own = {"residual_mlp": {"in_dim": 4}, "modules": make, "mlp": {}}[expert]
    dim = 4 if expert == "mlp" else 12
    layer = MoELayer(dim, num_experts=E, router="mlp_gate", hidden_dim=5, expert=expert, expert_args=own, out_dim=4)
    layer = layer.double().eval()
    x, rows = torch.randn(7, dim, dtype=torch.float64), torch.randn(E, 7, 4, dtype=torch.float64)
    functions = [lambda t, e=e: rows[e] if t is None else rows[e, t] for e in range(E)]
    expected, weights = layer(x, sources=rows, return_weights=True)
    outputs = torch.stack([alone(layer, e, rows[e]) for e in range(E)])
    torch.testing.assert_close(expected, (weights.T[..., None] * outputs).sum(0))
    for threshold in (0.0, 0.33):
        layer.router.threshold = threshold
        results = []
        for path in layer.experts.paths:
            if path == "native":
                continue
            layer.path = path
            results += [layer(x, sources=rows), layer(x, sources=functions)]
        for result in results:
            torch.testing.assert_close(result, results[0])
        if not threshold:
            torch.testing.assert_close(results[0], expected)
    if dim == 12 and expert != "modules":
        with pytest.raises(InputError, match="take rows of width 4, not 12: pass sources="):
            layer(x)
    with pytest.raises(InputError, match="3 are needed"):
        layer(x, sources=rows[:2])
    if expert != "modules":
        with pytest.raises(InputError, match=r"sources must be \(3, 7, 4\), got \(3, 6, 4\)"):
            layer(x, sources=rows[:, :6])


def alone(layer, e, x):
    twin = copy.deepcopy(layer)
    twin.path = "loop"
    only = torch.arange(E)[None].expand(len(x), -1) == e
    return twin(torch.zeros(len(x), layer.dim, dtype=x.dtype), sources=x.expand(E, -1, -1), available=only)


def test_counted_flops_are_the_formulas_with_everything_and_with_few():
    layer = MoELayer(12, num_experts=E, router="mlp_gate", expert="residual_mlp", expert_args={"in_dim": 4}, out_dim=4,
                     hidden_dim=8).eval()  # fmt: skip
    x, rows = torch.randn(5, 12), torch.randn(E, 5, 4)
    for k in (None, 1, 2):
        layer.router.eval_top_k = k
        with record_routing(layer) as records, FlopCounterMode(display=False) as counter:
            layer(x, sources=rows)
        assert layer.flops(records[0].routing) == counter.get_total_flops()
        assert sum(records[0].routing.expert_rows()) == 5 * (k or E)
