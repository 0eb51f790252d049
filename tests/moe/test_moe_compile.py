"""torch.compile without graph breaks, torch.export with inputs that reach other experts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moezoo.moe import MoELayer, aux_loss
from moezoo.moe.aux import mark_root


class Block(nn.Module):
    def __init__(self, **args):
        super().__init__()
        self.moe = MoELayer(8, num_experts=4, hidden_dim=12, **args)

    def forward(self, x):
        return x + self.moe(x)


CASES = [
    {"top_k": 1},
    {"top_k": 2, "num_shared_experts": 1},
    {"top_k": 2, "expert": "glu", "capacity_factor": 0.5},
]


@pytest.mark.parametrize("args", CASES)
def test_compiled_in_one_graph_it_equals_eager_in_training_and_evaluation(args):
    torch._dynamo.reset()
    model = Block(**args)
    mark_root(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(2, 5, 8)
    results = []
    for run in (model, compiled):
        model.zero_grad()
        inputs = x.clone().requires_grad_()
        y = run(inputs)
        aux = aux_loss(model)
        (y.square().sum() + 100 * aux).backward()
        results.append([y, aux, inputs.grad, *(p.grad.clone() for p in model.parameters())])
    for eager, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, eager)
    model.eval()
    torch.testing.assert_close(compiled(x), model(x))


def test_compiled_once_it_follows_inputs_that_reach_other_experts():
    torch._dynamo.reset()
    model = Block(top_k=1).eval()
    with torch.no_grad():
        model.moe.router.weight.copy_(torch.eye(8)[:4])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for expert in range(4):
        x = torch.eye(8)[expert].expand(6, 8)
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.parametrize(
    ("args", "strict"),
    # Strictly, it is dynamo that traces, which the tests above have done for every case.
    [(args, False) for args in CASES]
    + [pytest.param(args, True, marks=pytest.mark.slow if i else ()) for i, args in enumerate(CASES)],
)
def test_exported_with_a_dynamic_batch_it_follows_other_experts_and_sizes(args, strict):
    model = Block(**args).eval()
    with torch.no_grad():
        model.moe.router.weight.copy_(torch.eye(8)[:4])
    towards = [torch.eye(8)[e] + 0.1 * torch.randn(b, 5, 8) for e, b in ((0, 2), (3, 2), (1, 7), (2, 1))]
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (towards[0],), dynamic_shapes=({0: batch},), strict=strict).module()
    for x in towards:
        torch.testing.assert_close(program(x), model(x))
