"""Soft MoE against its formula, slot by slot in plain Python floats, and what follows from it."""

from __future__ import annotations

import math

import pytest
import torch
from moe_reference import naive_expert, naive_softmax
from router_cases import build, route
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import ConfigError
from moezoo.eval.routing import routing_report
from moezoo.moe import MoELayer, aux_loss, record_routing
from moezoo.moe.experts import StackedMLP
from moezoo.moe.losses import AUX_LOSSES
from moezoo.moe.paths import RUN

SHAPES = [(1, 1, 1, 1), (1, 3, 1, 5), (4, 1, 2, 3), (3, 2, 2, 5), (2, 3, 3, 1)]
"""Experts, slots of each, samples, tokens of each."""


def unit(vector):
    length = math.sqrt(sum(v * v for v in vector) + 1e-6)
    return [v / length for v in vector]


def unchanged(vector):
    return vector


def over_slots(logits):
    """The softmax that belongs to the other side."""
    return [naive_softmax(row) for row in logits]


def over_tokens(logits):
    columns = [naive_softmax(list(column)) for column in zip(*logits, strict=True)]
    return [list(row) for row in zip(*columns, strict=True)]


def reference(layer, x, *, of_x=unit, of_phi=unit, scale=None, dispatch=over_tokens, combine=over_slots):
    """(B, L, D), every sample, slot and token by itself; the keywords put a mistake in."""
    router, e = layer.router, layer.experts
    scale = router.scale.item() if scale is None else scale
    _, E, S = router.phi.shape
    slots = [(i, s) for i in range(E) for s in range(S)]
    keys = [of_phi(router.phi[:, i, s].tolist()) for i, s in slots]
    out = []
    for sample in x.tolist():
        queries = [of_x(token) for token in sample]
        logits = [[scale * sum(q * k for q, k in zip(query, key, strict=True)) for key in keys] for query in queries]
        into, back = dispatch(logits), combine(logits)
        results = []
        for p, (i, _) in enumerate(slots):
            mixture = [sum(into[t][p] * token[d] for t, token in enumerate(sample)) for d in range(len(sample[0]))]
            y = naive_expert(
                torch.tensor(mixture, dtype=torch.float64), e.w_in[i], e.b_in[i], e.w_out[i], e.b_out[i], "gelu", False
            )
            results.append(y.tolist())
        out.append(
            [
                [sum(back[t][p] * results[p][d] for p in range(len(slots))) for d in range(len(sample[0]))]
                for t in range(len(sample))
            ]
        )
    return torch.tensor(out, dtype=torch.float64)


def soft(num_experts=3, num_slots=2, **args):
    return build("soft", num_experts=num_experts, router_args={"num_slots": num_slots}, **args).eval()


def tokens(*shape):
    return torch.randn(*shape, 4, dtype=torch.float64)


@pytest.mark.parametrize("path", ["auto", *(path for path in RUN if path != "native")])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_path_equals_the_formula(path, shape):
    E, S, B, L = shape
    layer = soft(E, S, path=path)
    x = tokens(B, L)
    expected = reference(layer, x)
    single = path == "packed"  # which knows no float64
    with torch.no_grad():
        y = layer.float()(x.float()) if single else layer(x)
    tolerance = 1e-4 if single else 1e-10
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    "mistake",
    [
        {"dispatch": over_slots},
        {"combine": over_tokens},
        {"dispatch": over_slots, "combine": over_tokens},
        {"of_x": unchanged},
        {"of_phi": unchanged},
        {"scale": 1.0},
    ],
)
def test_each_part_of_the_formula_matters(mistake):
    layer = soft()
    torch.nn.init.constant_(layer.router.scale, 2.5)
    x = tokens(2, 5)
    right = reference(layer, x)
    torch.testing.assert_close(layer(x), right)
    assert (reference(layer, x, **mistake) - right).abs().max() > 1e-3


def test_slots_are_means_of_tokens_and_tokens_are_means_of_slots():
    routing = route(soft(3, 2), tokens(2, 5))
    dispatch, combine = routing.slots
    assert dispatch.shape == combine.shape == (2, 5, 3, 2)
    torch.testing.assert_close(dispatch.sum(1), torch.ones(2, 3, 2, dtype=torch.float64))
    torch.testing.assert_close(combine.sum((2, 3)), torch.ones(2, 5, dtype=torch.float64))
    torch.testing.assert_close(routing.weight.view(2, 5, 3), combine.sum(-1))
    torch.testing.assert_close(routing.probs, routing.weight.view(10, 3))
    assert routing.expert_index.tolist() == [0, 1, 2] * 10
    assert routing.counts().tolist() == [10] * 3
    assert routing.expert_rows() == [2 * 2] * 3


@pytest.mark.parametrize("path", ["loop", "sorted", "grouped", "static"])
def test_gradients_equal_finite_differences(path):
    layer = soft(2, 2, path=path)
    x = tokens(2, 3).requires_grad_()

    def run(x, phi, scale):
        return torch.func.functional_call(layer, {"router.phi": phi, "router.scale": scale}, (x,))

    torch.autograd.gradcheck(run, (x, *(p.detach().requires_grad_() for p in layer.router.parameters())))


def test_with_equal_logits_everything_becomes_the_mean():
    layer = soft(3, 1)
    torch.nn.init.zeros_(layer.router.phi)
    x = tokens(2, 5)
    e = layer.experts
    for ours, sample in zip(layer(x), x, strict=True):
        results = [
            naive_expert(sample.mean(0), e.w_in[i], e.b_in[i], e.w_out[i], e.b_out[i], "gelu", False) for i in range(3)
        ]
        torch.testing.assert_close(ours, torch.stack(results).mean(0).expand(5, -1))


def test_one_expert_with_one_slot_gives_all_tokens_the_same():
    y = soft(1, 1)(tokens(2, 5))
    torch.testing.assert_close(y, y[:, :1].expand(-1, 5, -1))
    assert (y[0, 0] - y[1, 0]).abs().max() > 1e-3


def test_a_large_scale_gives_every_token_its_nearest_slot():
    layer = soft(2, 1)
    with torch.no_grad():
        layer.router.phi.copy_(torch.eye(4, dtype=torch.float64)[:, :2, None])
        layer.router.scale.fill_(1e4)
    x = torch.tensor([[[3.0, 1.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]]], dtype=torch.float64)
    e = layer.experts
    for t in range(2):
        expected = naive_expert(x[0, t], e.w_in[t], e.b_in[t], e.w_out[t], e.b_out[t], "gelu", False)
        torch.testing.assert_close(layer(x)[0, t], expected)
    routing = route(layer.train(), x)
    assert torch.equal(routing.probs, torch.eye(2, dtype=torch.float64))
    assert routing.logits.isfinite().all()


@pytest.mark.parametrize("path", ["loop", "sorted", "grouped"])
def test_samples_are_mixed_each_by_itself(path):
    layer = soft(path=path)
    x = tokens(3, 5)
    y = layer(x)
    changed = x.clone()
    changed[1] += 1
    again = layer(changed)
    torch.testing.assert_close(again[::2], y[::2], rtol=0, atol=1e-12)
    assert (again[1] - y[1]).abs().min() > 1e-6
    grid = tokens(2, 3, 2)
    torch.testing.assert_close(layer(grid), layer(grid.flatten(1, 2)).view_as(grid))


def test_tokens_without_a_sample_axis_are_one_sample():
    layer = soft()
    x = tokens(2, 5)
    torch.testing.assert_close(layer(x.view(10, 4)), layer(x.view(1, 10, 4))[0])
    assert not torch.allclose(layer(x.view(10, 4)), layer(x).view(10, 4))


def test_equal_tokens_get_equal_results_and_doubling_them_all_changes_nothing():
    layer = soft()
    x = tokens(2, 5)
    doubled = layer(torch.cat([x, x], dim=1))
    torch.testing.assert_close(doubled[:, :5], layer(x))
    torch.testing.assert_close(doubled[:, 5:], layer(x))
    once_more = layer(torch.cat([x, x[:, :1]], dim=1))
    torch.testing.assert_close(once_more[:, 0], once_more[:, 5])
    assert (once_more[:, :5] - layer(x)).abs().max() > 1e-3


def test_routing_is_blind_to_the_length_of_tokens_and_of_phi():
    layer = soft()
    x = 1e3 * tokens(1, 6)
    before = route(layer, x).slots
    after = route(layer, 7 * x).slots
    torch.testing.assert_close(after.dispatch, before.dispatch)
    with torch.no_grad():
        layer.router.phi *= 1e3
        grown = route(layer, x).slots
        layer.router.phi *= 7
    torch.testing.assert_close(route(layer, x).slots.combine, grown.combine)


def test_zero_tokens_and_zero_phi_have_finite_gradients():
    layer = soft().train()
    torch.nn.init.zeros_(layer.router.phi)
    x = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    layer(x).square().sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_slots_are_fixed_and_tokens_are_not():
    layer = soft(3, 2)
    assert layer.router.phi.shape == (4, 3, 2)
    assert MoELayer(4, num_experts=3, router="soft").router.num_slots == 1
    for length in (1, 4, 9):
        x = tokens(2, length)
        torch.testing.assert_close(layer(x), reference(layer, x))


@pytest.mark.parametrize("path", ["loop", "grouped"])
def test_flops_go_by_slots(path):
    layer = soft(6, 3, path=path).float()
    x = torch.randn(2, 5, 4)
    routing = route(layer, x)
    experts = layer.experts.flops([2 * 3] * 6)
    assert layer.flops(routing) == experts + 3 * 2 * 10 * 4 * 18
    if path == "loop":
        with FlopCounterMode(display=False) as counter:
            layer(x)
        assert counter.get_total_flops() == layer.flops(routing)
    assert layer.flops(route(layer.to("meta"), x.to("meta"))) == layer.flops(routing)
    assert layer.inactive_parameters() == 0


def test_the_default_auxiliary_losses_are_constant_and_all_are_finite():
    layer = soft(4, 2).train()
    layer(tokens(2, 5))
    loss = aux_loss(layer)
    assert loss.item() == pytest.approx(0.01)
    grads = torch.autograd.grad(loss, layer.router.parameters(), allow_unused=True)
    assert all(g is None or g.abs().max() < 1e-12 for g in grads)
    for experts in (1, 4):
        layer = soft(experts, 2).train()
        for shape in ((2, 5), (0, 5), (2, 0)):
            routing = route(layer, tokens(*shape))
            for kind, function in AUX_LOSSES.items():
                assert function(routing).isfinite(), (kind, shape)


def test_recorded_slots_are_detached_and_the_load_is_even():
    layer = soft(4, 2)
    with record_routing(layer) as records:
        layer(tokens(2, 5))
    routing = records[0].routing
    assert not any(share.requires_grad for share in routing.slots)
    assert routing.slots.dispatch.sum() == pytest.approx(2 * 8)
    (load,) = routing_report(records)
    assert load.share == (0.25,) * 4
    assert load.drop_rate == 0
    assert load.dead_experts == ()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_and_routes_in_float32(dtype):
    layer = soft(4, 2, path="grouped").float()
    x = torch.randn(3, 7, 4)
    expected = layer(x)
    with torch.autocast("cpu", dtype=dtype):
        assert route(layer, x).slots.dispatch.dtype == torch.float32
        cast = layer(x)
    torch.testing.assert_close(cast.float(), expected, rtol=0.05, atol=0.05)
    half = layer.to(dtype)
    y = half(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.1)


@pytest.mark.xfail(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14),
    reason="older exporters cannot prove what they assume of the strides where two axes are dynamic",
    strict=False,
)
def test_exported_it_follows_other_batches_and_lengths():
    layer = soft(3, 2)
    batch, length = torch.export.Dim("batch", min=1, max=64), torch.export.Dim("length", min=1, max=64)
    program = torch.export.export(layer, (tokens(2, 5),), dynamic_shapes={"x": {0: batch, 1: length}}).module()
    for shape in ((2, 5), (1, 1), (7, 3)):
        x = tokens(*shape)
        torch.testing.assert_close(program(x), layer(x))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"top_k": 2}, "top_k=2 is not allowed: SoftRouter uses all 4 experts"),
        ({"normalize": False}, "normalize=False is not allowed"),
        ({"capacity_factor": 1.0}, "capacity_factor=1.0 is not allowed.*num_slots"),
        ({"capacity_rule": "vmoe"}, "capacity_rule='vmoe' is not allowed: SoftRouter has no capacity.*num_slots"),
        ({"router_args": {"num_slots": 0}}, "num_slots=0 is not allowed: it must be a whole number of at least 1"),
        ({"router_args": {"num_slots": None}}, "num_slots=None"),
        ({"router_args": {"num_slot": 2}}, "Did you mean: num_slots"),
    ],
)
def test_what_means_nothing_here_is_refused(args, words):
    with pytest.raises(ConfigError, match=words):
        MoELayer(4, num_experts=4, router="soft", **args)


def test_experts_that_take_whole_maps_are_refused(monkeypatch):
    monkeypatch.setattr(StackedMLP, "whole_maps", True)
    MoELayer(4, num_experts=4, router="dense_softmax")
    with pytest.raises(ConfigError, match=r"router='soft' is not allowed with expert='mlp'.*it mixes tokens") as error:
        MoELayer(4, num_experts=4, router="soft")
    assert "top_k" not in str(error.value)


@pytest.mark.parametrize("args", [{"top_k": 1}, {"top_k": 4}, {"normalize": True}])
def test_what_is_so_anyway_may_be_said(args):
    layer = MoELayer(4, num_experts=4, router="soft", **args)
    assert (layer.top_k, layer.router.normalize) == (4, True)
