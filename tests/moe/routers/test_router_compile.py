"""Every router compiles in one graph, exports, and keeps its shapes whatever it decides."""

from __future__ import annotations

import copy

import pytest
import torch
from router_cases import DYNAMIC, NAMES, build, types_for

from moezoo.moe.routers import step_routers

RANDOM_IN_TRAINING = ("noisy_topk", "random", "random_fraction", "shazeer_topk")
every_router = pytest.mark.parametrize("name", NAMES)
# Without a capacity the graph is the one that training compiles, below, but for these.
BOTH = {*RANDOM_IN_TRAINING, *DYNAMIC}


@pytest.mark.parametrize(
    ("name", "capacity_factor"),
    [(name, 0.75) for name in NAMES]
    + [pytest.param(name, None, marks=() if name in BOTH else pytest.mark.slow) for name in NAMES],
)
def test_compiled_in_one_graph_it_equals_eager_in_evaluation(name, capacity_factor):
    torch._dynamo.reset()
    layer = build(name, capacity_factor=capacity_factor).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for scale in (1.0, 10.0, -3.0):
        x = scale * torch.randn(2, 5, 4, dtype=torch.float64)
        types = types_for(name, layer, (2, 5))
        torch.testing.assert_close(compiled(x, token_type=types), layer(x, token_type=types))


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(RANDOM_IN_TRAINING)))
def test_compiled_training_gives_eager_gradients_and_counts(name):
    torch._dynamo.reset()
    layer = build(name)
    layer.aux.weights.clear()
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    types = types_for(name, layer, (2, 5))
    for _ in range(2):
        torch.testing.assert_close(compiled(x, token_type=types), layer(x, token_type=types))
    layer(x, token_type=types).square().sum().backward()
    compiled(x, token_type=types).square().sum().backward()
    for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    assert torch.equal(getattr(twin.router, "tally", torch.ones(1)), getattr(layer.router, "tally", torch.ones(1)))
    step_routers(twin)
    step_routers(layer)
    for ours, theirs in zip(twin.buffers(), layer.buffers(), strict=True):
        assert torch.equal(ours, theirs)


@every_router
def test_exported_with_a_dynamic_batch_it_follows_other_inputs_and_sizes(name):
    layer = build(name).eval()
    inputs = [s * torch.randn(b, 5, 4, dtype=torch.float64) for s, b in ((1, 2), (10, 2), (-3, 7), (1, 1))]
    batch = torch.export.Dim("batch", min=1, max=64)
    kinds = [types_for(name, layer, x.shape[:2]) for x in inputs]
    program = torch.export.export(
        layer,
        (inputs[0],),
        {"token_type": kinds[0]},
        dynamic_shapes={"x": {0: batch}, "token_type": None if kinds[0] is None else {0: batch}},
    ).module()
    for x, types in zip(inputs, kinds, strict=True):
        torch.testing.assert_close(program(x, token_type=types), layer(x, token_type=types))


@pytest.mark.parametrize("rule", ["gshard", "vmoe", "tutel", "megablocks", "lucidrains"])
def test_capacity_rules_follow_an_exported_dynamic_batch(rule):
    layer = build("bpr_topk", capacity_factor=0.6, capacity_rule=rule).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    program = torch.export.export(layer, (x,), dynamic_shapes={"x": {0: batch}}).module()
    for size in (3, 1, 8):
        x = torch.randn(size, 7, 4, dtype=torch.float64)
        torch.testing.assert_close(program(x), layer(x))
