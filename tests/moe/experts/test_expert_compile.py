"""Every kind compiles in one graph and exports, and then follows inputs that reach experts not met while tracing."""

from __future__ import annotations

import copy

import pytest
import torch
from expert_reference import KINDS, D, build

every_kind = pytest.mark.parametrize("kind", KINDS)


def towards(layer, expert, batch=2):
    """Samples whose tokens all go to ``expert`` first."""
    with torch.no_grad():
        layer.router.weight.copy_(8 * torch.eye(D, dtype=torch.float64))
    return torch.eye(D, dtype=torch.float64)[expert] + 0.1 * torch.randn(batch, 6, D, dtype=torch.float64)


@pytest.mark.parametrize(
    "kind",
    # Of the others the graph of training, below, is asked the same, and the exported one in evaluation.
    [pytest.param(kind, marks=() if kind in ("mlp", "conv", "mixed") else pytest.mark.slow) for kind in KINDS],
)
def test_compiled_once_it_follows_inputs_that_reach_other_experts(kind):
    torch._dynamo.reset()
    layer = build(kind, **({} if kind == "conv" else {"top_k": 1})).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for expert in range(4):
        x = towards(layer, expert)
        torch.testing.assert_close(compiled(x), layer(x))


@every_kind
def test_compiled_training_gives_eager_gradients(kind):
    torch._dynamo.reset()
    layer = build(kind)
    layer.aux.weights.clear()
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 6, D, dtype=torch.float64)
    for module in (layer, compiled):
        module(x).square().sum().backward()
    for ours, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None) == (not ours.requires_grad)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)
    for expert in range(4):
        x = towards(layer, expert)
        twin.router.load_state_dict(layer.router.state_dict())
        torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize(
    ("kind", "strict"),
    # Strictly, it is dynamo that traces, which the tests above have done for every kind.
    [(kind, False) for kind in KINDS]
    + [pytest.param(kind, True, marks=() if kind == "mlp" else pytest.mark.slow) for kind in KINDS],
)
def test_exported_with_a_dynamic_batch_it_follows_other_experts_and_sizes(kind, strict):
    layer = build(kind, **({} if kind == "conv" else {"top_k": 1})).eval()
    inputs = [towards(layer, expert, batch) for expert, batch in ((0, 2), (3, 2), (1, 7), (2, 1))]
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (inputs[0],), dynamic_shapes=({0: batch},), strict=strict).module()
    for x in inputs:
        torch.testing.assert_close(program(x), layer(x))
