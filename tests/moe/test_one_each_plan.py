"""Tokens with one expert each, and experts with rows of their own: no wait, no slope and no row is lost or added."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.utils._python_dispatch import TorchDispatchMode

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, Routing, set_progress
from moezoo.moe.dispatch import make_plan
from moezoo.moe.dispatch.plan import OneEachPlan
from moezoo.moe.routers import Router

DIM = 4
BY_SCORE = {"router": "score_threshold"}


def layer_of(members=None, **args):
    """Two linear experts of width 4 to 3 in float64."""
    modules = members or [nn.Linear(DIM, 3), nn.Linear(DIM, 3)]
    args = {"aux_weights": {}, "out_dim": 3, **args}
    return MoELayer(DIM, num_experts=2, expert="modules", expert_args={"modules": modules}, **args).double()


class Waits(TorchDispatchMode):
    """Counts the operations that wait for a device, but for reading a whole list."""

    found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += func.overloadpacket in (
            torch.ops.aten._local_scalar_dense,
            torch.ops.aten.equal,
            torch.ops.aten.is_nonzero,
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("path", ["loop", "sorted"])
def test_a_plan_and_what_uses_it_read_from_the_device_once(top_k, path):
    routing, y = Routing.from_logits(torch.randn(9, 3), top_k), torch.randn(9 * top_k, DIM)
    read, tolist = [], torch.Tensor.tolist
    with pytest.MonkeyPatch.context() as patch, Waits() as waits, torch.no_grad():
        patch.setattr(torch.Tensor, "tolist", lambda tensor: read.append(1) or tolist(tensor))
        plan = make_plan(routing, path)
        plan.gather(y[:9]), plan.combine(y), plan.sizes
    assert (len(read), waits.found) == (1, 0)
    assert isinstance(plan, OneEachPlan) == (path == "loop" and top_k == 1)


def test_tokens_out_of_order_or_missing_are_no_permutation():
    even = Routing.from_logits(torch.zeros(4, 2), 1)
    for index in ([1, 0, 2, 3], [0, 0, 2, 3]):
        routing = Routing(**{**vars(even), "token_index": torch.tensor(index)})
        plan = make_plan(routing, "loop")
        assert not isinstance(plan, OneEachPlan)
        expected = torch.zeros(4, 1).index_add(0, plan.token_index, torch.ones(4, 1) * plan.weight[:, None])
        assert torch.equal(plan.combine(torch.ones(4, 1)), expected)


@pytest.mark.parametrize("budget", [None, 1.0])
def test_the_slope_of_a_weight_of_one_is_there_in_forward_mode_too(budget):
    layer, x = layer_of(**BY_SCORE), torch.randn(2, 5, DIM, dtype=torch.float64)
    if budget is not None:
        moezoo.set_budget(layer, budget)
    scores, push = torch.rand(2, 2, 5, dtype=torch.float64)
    _, tangent = torch.func.jvp(lambda s: layer(x, scores=s).sum(), (scores,), (push,))
    (slope,) = torch.autograd.grad(layer(x, scores=scores.requires_grad_()).sum(), scores)
    assert tangent.abs() > 1e-6
    torch.testing.assert_close(tangent, (slope * push).sum())


def test_what_made_the_input_has_a_gradient_without_tokens():
    layer, x = layer_of(**BY_SCORE), torch.zeros(0, 5, DIM, dtype=torch.float64, requires_grad=True)
    layer(x, scores=x[..., 0].detach()).sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None for p in layer.parameters())


def test_a_source_must_give_a_row_for_each_token():
    layer, x = layer_of(**BY_SCORE).eval(), torch.randn(1, 4, DIM, dtype=torch.float64)
    scores = torch.tensor([[0.9, 0.1, 0.8, 0.2]], dtype=torch.float64)
    rows = torch.randn(9, DIM, dtype=torch.float64)
    # Together they are as many as they should be.
    with pytest.raises(InputError, match=r"sources\[0\] must give a row for each of 2 tokens, got 3"):
        layer(x, scores=scores, sources=(lambda token: rows[:3], lambda token: rows[:1]))
    moezoo.set_budget(layer, 1.0)
    with pytest.raises(InputError, match=r"sources\[0\] must give a row for each of 4 tokens, got 9"):
        layer(x, scores=scores, sources=(lambda token: rows, None))


def test_two_widths_that_contradict_each_other_are_refused():
    experts = {"modules": [nn.Linear(DIM, 5), nn.Linear(DIM, 5)], "out_dim": 5}
    with pytest.raises(ConfigError, match=r"out_dim=3 .* out_dim=5"):
        MoELayer(DIM, num_experts=2, expert="modules", expert_args=experts, out_dim=3)
    assert MoELayer(DIM, num_experts=2, expert="modules", expert_args=experts, out_dim=5).out_dim == 5
    assert MoELayer(DIM, num_experts=2, expert="modules", expert_args=experts).out_dim == 5


def test_a_router_that_knows_nothing_of_scores_works_and_may_have_a_forward_of_its_own():
    class Old(Router):
        def route_samples(self, x_TD, samples, token_type):
            return Routing.from_logits(x_TD[:, :2], 1, normalize=False)

        def route(self, x_TD):
            return self.route_samples(x_TD, 1, None)

        def forward(self, x_TD, *, samples=1, token_type=None):
            return super().forward(x_TD, samples=samples, token_type=token_type)

    layer, x = layer_of(), torch.randn(3, 5, DIM, dtype=torch.float64)
    layer.router = Old(DIM, 2)
    layer(x).sum().backward()
    with pytest.raises(TypeError, match="scores"):
        layer(x, scores=x[..., 0].sigmoid())


def test_a_schedule_costs_a_compiled_layer_no_graph_per_step_and_none_where_there_is_no_schedule():
    graphs = {}
    for name, router_args, aux_args in (
        ("none", {}, {"target": 0.2, "anneal": 0.0}),
        ("both", {"temperature": 4.0, "temperature_final": 0.25}, {"target": 0.2, "anneal": 0.9}),
    ):
        torch._dynamo.reset()
        layer = layer_of(
            **BY_SCORE,
            router_args=router_args,
            aux_weights={"compute_budget": 1.0},
            aux_args={"compute_budget": aux_args},
        )
        x, scores = torch.randn(3, 5, DIM, dtype=torch.float64), torch.rand(3, 5, dtype=torch.float64)
        counter = CompileCounter()
        run, graphs[name] = torch.compile(layer, backend=counter), []
        for step in range(8):
            set_progress(layer, step / 10)
            run(x, scores=scores)
            graphs[name].append(counter.frame_count)
    assert len(set(graphs["none"])) == 1
    assert len(set(graphs["both"])) == 2, "the first step's, and one for all that follow"
