"""What every combination of router, experts and path promises."""

from __future__ import annotations

import copy

import pytest
import torch
from engine_cases import (
    DIM,
    EXPERTS,
    ON_THE_REFERENCE,
    TOKENS,
    build,
    expert_output,
    mixture,
    pairwise,
    paths_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from router_cases import BY_POSITION, CASES, DYNAMIC, MIXING, NO_DENSE_LIMIT, SPLIT, route, types_for
from torch import nn
from torch.utils.checkpoint import checkpoint

import moezoo
from moezoo.moe import MoELayer, stack, unstack
from moezoo.moe.experts import experts as registered_experts

PLACED = {"conv"}
"""Experts that look at where a token lies."""
GATES = {"complexity", "complexity_in_order", "hierarchical", "mlp_gate", "mlp_gate_skipping"}
ALWAYS = {"dense_softmax", "multihead", "expert_choice", "relu", "threshold", "top_p"} | GATES | SPLIT
"""Routers that may leave no expert idle."""
NOISY = {"noisy_topk", "shazeer_topk", "random", "random_fraction"}
FREE = [case for case in ON_THE_REFERENCE if case[0] not in MIXING]
every_pair = pytest.mark.parametrize(("router", "expert"), ON_THE_REFERENCE)
seeds = st.integers(0, 10_000)


def tokens(layer, router, batch=2):
    x = torch.randn(batch, TOKENS, DIM, dtype=torch.float64)
    return x, types_for(router, layer, (batch, TOKENS))


def test_every_registered_kind_of_experts_is_covered():
    built_in = {name for name in registered_experts if registered_experts.get(name).__module__.startswith("moezoo.")}
    assert built_in == set(EXPERTS) - {"unequal"}


def test_only_maps_cut_in_pieces_are_refused():
    refused = {(r, e) for r in CASES for e in EXPERTS} - set(ON_THE_REFERENCE)
    assert {expert for _, expert in refused} == {"conv"}
    assert {"per_image", "dense_softmax"}.isdisjoint(router for router, _ in refused)


@pytest.mark.parametrize(("router", "expert"), FREE)
@settings(max_examples=3, deadline=None)
@given(seed=seeds)
def test_the_output_is_the_weighted_sum_over_the_chosen_experts(router, expert, seed):
    torch.manual_seed(seed)
    layer = build(router, expert).eval()
    x, types = tokens(layer, router)
    expected = mixture(layer, x.view(-1, DIM), route(layer, x, types))
    torch.testing.assert_close(layer(x, token_type=types).view(-1, DIM), expected)


@pytest.mark.parametrize(
    ("router", "expert"), [c for c in ON_THE_REFERENCE if c[0] not in BY_POSITION and c[1] not in PLACED]
)
@settings(max_examples=2, deadline=None)
@given(seed=seeds)
def test_permuting_tokens_permutes_outputs(router, expert, seed):
    torch.manual_seed(seed)
    layer = build(router, expert).eval()
    x, types = tokens(layer, router)
    order = torch.randperm(TOKENS)
    moved = layer(x[:, order], token_type=None if types is None else types[:, order])
    torch.testing.assert_close(moved, layer(x, token_type=types)[:, order])


def test_experts_on_maps_see_where_a_token_lies():
    layer = build("dense_softmax", "conv").eval()
    x, _ = tokens(layer, "dense_softmax")
    assert not torch.allclose(layer(x.flip(1)), layer(x).flip(1))


@every_pair
@settings(max_examples=2, deadline=None)
@given(seed=seeds)
def test_a_samples_result_does_not_depend_on_its_batch(router, expert, seed):
    torch.manual_seed(seed)
    layer = build(router, expert).eval()
    x, types = tokens(layer, router, batch=3)
    alone = [layer(x[i : i + 1], token_type=None if types is None else types[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(layer(x, token_type=types), torch.cat(alone))


def test_capacity_and_choice_over_the_batch_depend_on_it_as_documented():
    x = torch.randn(4, TOKENS, DIM, dtype=torch.float64)
    for args in ({"capacity_factor": 0.5}, {"router": "expert_choice", "router_args": {"scope": "batch"}}):
        layer = MoELayer(DIM, num_experts=4, **args).double().eval()
        nn.init.normal_(layer.router.weight)
        assert not torch.allclose(layer(x)[:1], layer(x[:1]))


@pytest.mark.parametrize(("router", "expert"), [c for c in ON_THE_REFERENCE if c[1] in ("mlp", "glu", "residual_mlp")])
def test_relabelling_the_experts_changes_nothing(router, expert):
    layer = build(router, expert).eval()
    axes = layer.router.expert_axes
    if router == "group_limited":
        order = torch.tensor([3, 2, 1, 0])  # groups stay together
        axes = {"weight": 0}
    else:
        order = torch.tensor([1, 0] if router in SPLIT else [2, 0, 3, 1])
    x, types = tokens(layer, router)
    before = layer(x, token_type=types)
    with torch.no_grad():
        for p in layer.experts.parameters():
            p.copy_(p[order])
    if not axes:  # who an expert is, is fixed
        assert not torch.allclose(layer(x, token_type=types), before)
        return
    with torch.no_grad():
        for name, axis in axes.items():
            value = layer.router.get_parameter(name) if name in dict(layer.router.named_parameters()) else None
            value = layer.router.get_buffer(name) if value is None else value
            if value.dim() > axis and value.shape[axis] == 4:
                value.copy_(value.index_select(axis, order))
    torch.testing.assert_close(layer(x, token_type=types), before)


@pytest.mark.parametrize(("router", "expert"), [c for c in FREE if c[0] not in SPLIT])
def test_one_expert_equals_the_dense_layer_times_its_weight(router, expert):
    layer = build(router, expert, num_experts=1, top_k=1).eval()
    x, types = tokens(layer, router)
    types = None if types is None else types * 0
    routing = route(layer, x, types)
    weight_T = torch.zeros(len(x) * TOKENS, dtype=torch.float64)
    weight_T[routing.token_index] = routing.weight * ~routing.dropped
    dense = weight_T[:, None] * expert_output(layer, 0, x.view(-1, DIM))
    torch.testing.assert_close(layer(x, token_type=types).view(-1, DIM), dense)


@pytest.mark.parametrize(("router", "expert"), [c for c in FREE if c[0] not in NO_DENSE_LIMIT | DYNAMIC])
def test_all_experts_chosen_equal_the_dense_mixture(router, expert):
    layer = build(router, expert, num_experts=3, top_k=3).eval()
    x, types = tokens(layer, router)
    types = None if types is None else types * 0
    routing = route(layer, x, types)
    each = torch.stack([expert_output(layer, e, x.view(-1, DIM)) for e in range(3)], 1)
    factor = routing.weight.view(-1, 3).sum(1)  # of routers whose weights are scaled, or not shares
    out = layer(x, token_type=types).view(-1, DIM)
    torch.testing.assert_close(out, factor[:, None] * (routing.probs[..., None] * each).sum(1))


@every_pair
def test_idle_experts_get_zero_gradients_not_none(router, expert):
    layer = build(router, expert, num_experts=8, top_k=8 if router == "dense_softmax" or expert == "conv" else 1)
    layer.experts.requires_grad_(True)
    x = torch.randn(1, TOKENS, DIM, dtype=torch.float64)
    types = types_for(router, layer, (1, TOKENS))
    x.requires_grad_()
    routing = route(layer, x, types)
    layer(x, token_type=types).sum().backward()
    if router not in NOISY | ALWAYS | MIXING and expert != "conv":
        assert (routing.counts() == 0).any()
    for name, p in layer.experts.named_parameters():
        assert p.grad is not None, name
        if len(p) == 8 and router not in NOISY | MIXING and expert in ("mlp", "glu", "residual_mlp", "lora"):
            idle = routing.counts() == 0
            assert not p.grad[idle].any(), name


@pytest.mark.parametrize(("router", "expert"), [c for c in ON_THE_REFERENCE if c[0] not in NOISY])
def test_checkpointing_changes_neither_aux_loss_nor_gradients(router, expert):
    layer = build(router, expert)
    twin = copy.deepcopy(layer)
    x, types = tokens(layer, router)
    runs = []
    for model, recompute in ((layer, False), (twin, True)):
        y = checkpoint(model, x, token_type=types, use_reentrant=False) if recompute else model(x, token_type=types)
        aux = moezoo.aux_loss(model)
        (y.square().sum() + aux).backward()
        runs.append([y, aux, moezoo.aux_loss(model), *(p.grad for p in model.parameters() if p.requires_grad)])
    for one, other in zip(*runs, strict=True):
        torch.testing.assert_close(one, other)


@every_pair
def test_a_state_dict_carries_the_whole_layer(router, expert):
    layer, other = build(router, expert).eval(), build(router, expert).eval()
    other.load_state_dict(layer.state_dict(), strict=True)
    x, types = tokens(layer, router)
    assert torch.equal(other(x, token_type=types), layer(x, token_type=types))


@pytest.mark.parametrize(("router", "expert"), [c for c in ON_THE_REFERENCE if c[1] in ("mlp", "glu", "residual_mlp")])
def test_experts_unstacked_and_stacked_again_are_the_same_bits(router, expert):
    layer = build(router, expert).eval()
    modules = unstack(layer.experts)
    again = stack(modules)
    for name, value in layer.experts.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    x, types = tokens(layer, router)
    expected = layer(x, token_type=types)
    apart = copy.deepcopy(layer)
    apart.experts = registered_experts.get("modules")(DIM, 5, layer.num_experts, modules=modules).double().eval()
    torch.testing.assert_close(apart(x, token_type=types), expected)


@pytest.mark.parametrize(("router", "expert", "path"), pairwise())
@settings(max_examples=2, deadline=None)
@given(seed=seeds, batch=st.integers(0, 3))
def test_every_path_gives_what_the_reference_gives(router, expert, path, seed, batch):
    torch.manual_seed(seed)
    reference = build(router, expert)
    layer = build(router, expert, path)
    layer.load_state_dict(reference.state_dict())
    x, types = tokens(layer, router, batch)
    if path == "packed":
        layer, reference, x = layer.float().eval(), reference.float().eval(), x.float()
        with torch.no_grad():
            torch.testing.assert_close(layer(x, token_type=types), reference(x, token_type=types), rtol=1e-4, atol=1e-4)
        return
    runs = []
    for model in (layer.eval(), reference.eval()):
        leaf = x.clone().requires_grad_()
        y = model(leaf, token_type=types)
        y.square().sum().backward()
        runs.append([y, leaf.grad, *(p.grad for p in model.parameters() if p.requires_grad)])
    for one, other in zip(*runs, strict=True):
        assert (one is None) == (other is None) or batch == 0
        if one is not None and other is not None:
            torch.testing.assert_close(one, other)


TEN = [
    ("softmax_topk", "mlp"),
    ("softmax_topk", "mixed"),
    ("noisy_topk", "glu"),
    ("cosine", "residual_mlp"),
    ("sigmoid_bias", "lora"),
    ("expert_choice", "mlp"),
    ("soft", "mlp"),
    ("top_p", "unequal"),
    ("threshold", "modules"),
    ("per_image", "mlp"),
]
"""Compiled and exported; every router by itself is in routers/test_router_compile.py."""


def unseen(layer, router):
    """Inputs after the first that reach experts which the first does not."""
    x = torch.randn(2, TOKENS, DIM, dtype=torch.float64)
    x[:] = x[:1, :1]  # one token, everywhere
    types = types_for(router, layer, (2, TOKENS))
    return [(x, types), *((s * torch.randn_like(x), types_for(router, layer, (2, TOKENS))) for s in (1.0, 5.0, -5.0))]


@pytest.mark.parametrize(("router", "expert"), TEN)
def test_exported_it_follows_inputs_that_reach_other_experts(router, expert):
    layer = build(router, expert, "auto").eval()
    inputs = unseen(layer, router)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (inputs[0][0],), dynamic_shapes={"x": {0: batch}}).module()
    met = [set(route(layer, x, types).expert_index.tolist()) for x, types in inputs]
    if router in ("softmax_topk", "cosine", "noisy_topk"):
        assert set.union(*met) - met[0], "the inputs reach no further expert"
    for x, types in inputs:
        torch.testing.assert_close(program(x), layer(x, token_type=types))


@pytest.mark.parametrize(("router", "expert"), TEN)
def test_compiled_in_one_graph_it_trains_as_eager_does(router, expert):
    torch._dynamo.reset()
    layer = build(router, expert, "auto").train(router not in NOISY)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for x, _ in unseen(layer, router):
        layer.zero_grad(), twin.zero_grad()
        y, z = layer(x), compiled(x)
        torch.testing.assert_close(z, y)
        y.square().sum().backward(), z.square().sum().backward()
        for p, q in zip(layer.parameters(), twin.parameters(), strict=True):
            if p.requires_grad:
                torch.testing.assert_close(q.grad, p.grad)


@pytest.mark.slow
@pytest.mark.parametrize(("router", "expert"), TEN)
def test_inductor_gives_what_eager_gives(router, expert):
    torch._dynamo.reset()
    layer = build(router, expert, "auto", aux_weights={}).eval()
    compiled = torch.compile(layer, fullgraph=True)
    with torch.no_grad():
        for x, _ in unseen(layer, router):
            torch.testing.assert_close(compiled(x), layer(x))


def test_each_kind_of_experts_names_the_paths_it_has():
    for expert in EXPERTS:
        for path in ("loop", "sorted", "batched", "packed", "grouped", "static"):
            if path in paths_of(expert):
                assert build("dense_softmax", expert, path).path == path
            else:
                with pytest.raises(moezoo.errors.ConfigError, match=f"path='{path}' is not allowed"):
                    build("dense_softmax", expert, path)
