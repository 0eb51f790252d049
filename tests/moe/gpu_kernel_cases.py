"""The GPU kernels against float64, interpreted on a CPU: collected by test_gpu_kernels.py, in a process of its own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moezoo.moe import MoELayer, Routing, kernels
from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.dispatch.by_expert import sort_by_expert
from moezoo.moe.kernels import sort
from moezoo.moe.kernels.linear import linear
from moezoo.moe.kernels.nonlinearity import hidden, hidden_backward
from moezoo.moe.kernels.rows import sum_bags, sum_bags_backward
from moezoo.moe.kernels.sort import counting_sort
from moezoo.moe.kernels.sums import add_bias_, sum_by_expert, zero_dropped_
from moezoo.moe.paths import triton

ROWS = {
    "uneven": ([70, 0, 3], 5),
    "one expert, no rows": ([0], 0),
    "all dropped": ([0, 0, 0], 4),
    "one row": ([1], 0),
    "tiles that are full": ([64, 128], 64),
}


def close(got, want):
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-4)


def rows_of(case, width):
    counts, dropped = ROWS[case]
    expert = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    return torch.tensor(counts).cumsum(0).int(), expert, torch.randn(sum(counts) + dropped, width)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_bias_activation_and_gate_with_every_gradient(activation, gated):
    odd = {"one expert, no rows": 8, "all dropped": 8, "one row": 130} if activation == "gelu" else {}
    for case, H in {"uneven": 70, **odd}.items():
        offsets, expert, h = rows_of(case, 2 * H if gated else H)
        bias, da = torch.randn(len(offsets), h.shape[1]), torch.randn(len(h), H)
        kept = len(expert)
        h64, bias64 = h[:kept].double().requires_grad_(), bias.double().requires_grad_()
        x = h64 + bias64[expert]
        act = ACTIVATIONS[activation]
        want = act(x[:, :H]) * x[:, H:] if gated else act(x)
        want_h, want_bias = torch.autograd.grad(want, (h64, bias64), da[:kept].double())
        close(hidden(h, bias, offsets, activation, gated)[:kept], want)
        dh, db, again = hidden_backward(da.clone(), h, bias, offsets, activation, gated)
        close(again[:kept], want)
        close(dh[:kept], want_h)
        close(db, want_bias)


@pytest.mark.parametrize("case", ROWS)
def test_sums_and_biases_of_each_expert_leave_dropped_rows_out(case):
    offsets, expert, x = rows_of(case, 130)
    kept, bias = len(expert), torch.randn(len(offsets), 130)
    x[kept:] = torch.nan
    sums = torch.zeros(len(offsets), 130, dtype=torch.float64).index_add(0, expert, x[:kept].double())
    close(sum_by_expert(x, offsets), sums)
    y = add_bias_(x.clone(), bias, offsets)
    close(y[:kept], (x[:kept] + bias[expert]).double())
    zeroed = zero_dropped_(x.clone(), offsets)
    assert torch.equal(zeroed[:kept], x[:kept])
    assert not y[kept:].any()
    assert not zeroed[kept:].any()


@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
@pytest.mark.parametrize(("case", "D", "H"), [("uneven", 24, 136), ("one row", 128, 128), ("all dropped", 8, 8)])
def test_a_linear_map_for_each_expert_in_one_kernel(case, D, H, activation):
    offsets, expert, x = rows_of(case, D)
    kept, weight, bias = len(expert), torch.randn(len(offsets), H, D), torch.randn(len(offsets), H)
    want = torch.einsum("nd,nhd->nh", x[:kept].double(), weight[expert].double()) + bias[expert].double()
    got = linear(x, weight, bias, offsets, activation)
    close(got[:kept], ACTIVATIONS[activation](want) if activation else want)
    assert not got[kept:].any()


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 9), st.integers(0, 900), st.floats(0, 1), st.sampled_from([0, 4]), st.integers(0, 99))
def test_counting_sorts_as_sorting_does(experts, assignments, share, steps, seed):
    sort.STEPS = steps  # with none even few assignments are counted by many programs
    generator = torch.Generator().manual_seed(seed)
    expert = torch.randint(experts, (assignments, experts), generator=generator)[:, 0]  # as a slice of an argsort is
    dropped = torch.rand(assignments, generator=generator) < share
    token = torch.arange(assignments) // 3
    want = sort_by_expert(token, expert, dropped, experts)
    for name, got, expected in zip(want._fields, counting_sort(token, expert, dropped, experts), want, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0, msg=name)
    # The plain way itself, by its meaning.
    key = torch.where(dropped, experts, expert)[want.order]
    assert torch.equal(key, key.sort().values)
    assert torch.equal(want.order[want.row], torch.arange(assignments))
    assert want.counts.tolist() == expert[~dropped].bincount(minlength=experts).tolist()


def test_counting_sorts_among_many_experts():
    sort.STEPS = 4
    given = torch.arange(200), torch.randint(100, (200,)), torch.rand(200) < 0.1, 100
    for got, want in zip(counting_sort(*given), sort_by_expert(*given), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize(("tokens", "places", "width", "kept"), [(20, 2, 40, 37), (3, 1, 130, 3), (5, 3, 8, 0)])
def test_rows_are_summed_into_tokens_with_every_gradient(tokens, places, width, kept):
    N = tokens * places
    order = torch.randperm(N)
    token, row = order // places, order.argsort()
    y, weight, grad = torch.randn(N, width), torch.randn(N), torch.randn(tokens, width)
    there = torch.arange(N) < kept
    y64 = torch.where(there[:, None], y, 0.0).double().requires_grad_()
    weight64 = torch.where(there, weight, 0.0).double().requires_grad_()
    want = torch.zeros(tokens, width, dtype=torch.float64).index_add(0, token, y64 * weight64[:, None])
    want_y, want_weight = torch.autograd.grad(want, (y64, weight64), grad.double())
    y[kept:], limit = torch.nan, torch.tensor([kept])
    close(sum_bags(y, weight, row, None, places, limit, None), want)
    close(sum_bags(y, weight, row, torch.arange(0, N + 1, places), 0, limit, None), want)
    close(sum_bags(y, weight[row], row, None, places, limit, order), want)
    want_weight = torch.where(there, want_weight, 0.0)
    for by, back, dweight in ((None, weight, want_weight), (order, weight[row], want_weight[row])):
        dy, got = sum_bags_backward(grad, y, back, token, limit, by)
        close(dy, want_y)
        close(got, dweight)


@pytest.fixture(params=["one product", "a product per expert"])
def everywhere(monkeypatch, request):
    """As if every tensor were on a GPU, with and without a kernel for grouped products."""
    monkeypatch.setattr(kernels, "compiles", lambda device: True)
    monkeypatch.setattr(kernels, "usable", lambda *tensors: all(t.dtype in kernels.DTYPES for t in tensors))
    monkeypatch.setattr(triton, "one_kernel", lambda x, mlp: request.param == "one product")


CASES = [
    {"top_k": 2},
    {"top_k": 2, "expert": "glu", "capacity_factor": 0.5},
    {"router": "expert_choice", "activation": "silu"},
    {"router": "soft"},
]


@pytest.mark.parametrize("args", CASES)
def test_the_path_gives_what_the_reference_gives_in_float64(args, everywhere):
    layer = MoELayer(16, num_experts=4, hidden_dim=24, **args)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.4)
    x, grad = torch.randn(3, 20, 16), torch.randn(3, 20, 16)
    results = {}
    for path, dtype in (("loop", torch.float64), ("triton", torch.float32)):
        layer.path = path
        layer.to(dtype).zero_grad()
        inputs = x.to(dtype).requires_grad_()
        y = layer(inputs)
        y.backward(grad.to(dtype), retain_graph=True)
        once = inputs.grad.clone()
        y.backward(grad.to(dtype))  # nothing that was saved has been overwritten
        close(inputs.grad, 2 * once.double())
        with torch.no_grad():
            results[path] = [y, layer(x.to(dtype)), once, *(p.grad for p in layer.parameters())]
    for got, want in zip(results["triton"], results["loop"], strict=True):
        close(got, want.double())


def test_gradients_of_gradients_are_those_of_the_reference(everywhere):
    layer = MoELayer(8, num_experts=3, top_k=2, hidden_dim=12, capacity_factor=0.7)
    found = {}
    x = torch.randn(10, 8)
    for path in ("loop", "triton"):
        layer.path = path
        inputs = x.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(inputs).square().sum(), inputs, create_graph=True)
        found[path] = torch.autograd.grad(first.square().sum(), [inputs, *layer.experts.parameters()])
    for got, want in zip(found["triton"], found["loop"], strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("everywhere", ["one product"], indirect=True)
def test_equal_calls_give_equal_bits(everywhere):
    layer = MoELayer(16, num_experts=4, top_k=2, path="triton")
    grads = []
    for _ in range(2):
        layer.zero_grad()
        layer(torch.ones(50, 16).cumsum(0) / 50).sum().backward()
        grads.append([p.grad.clone() for p in layer.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_a_routing_in_another_order_is_not_taken_for_a_regular_one():
    routing = Routing.from_logits(torch.randn(6, 4), 2)
    assert routing.places == 2
    assert routing.detach().places == 0  # not known any more, which is always right
