"""MoELayer against a naive mixture, its invariants, and its gradients."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_reference import naive_expert, naive_mixture
from torch.nn import functional as F

from moezoo.errors import InputError
from moezoo.moe import MoELayer
from moezoo.moe.dispatch.capacity import expert_capacity

PATHS = ("loop", "grouped")


def params_of(layer):
    return {name: p.detach().clone().requires_grad_() for name, p in layer.named_parameters()}


def randomise(layer):
    """Spread the weights: routers and biases start near or at zero, where mistakes hide."""
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p) * 0.5)
    return layer


def assert_equals_naive(layer, x, *, shared=0, glu=False, activation="gelu", capacity=None, rtol=1e-9, atol=1e-9):
    params = params_of(layer)
    x_ref = x.detach().clone().requires_grad_()
    expected = naive_mixture(
        x_ref,
        params,
        top_k=layer.top_k,
        normalize=layer.router.normalize,
        activation=activation,
        glu=glu,
        shared=shared,
        capacity=capacity,
    )
    x = x.detach().clone().requires_grad_()
    y = layer(x)
    torch.testing.assert_close(y, expected, rtol=rtol, atol=atol)
    probe = torch.randn_like(y)
    (y * probe).sum().backward()
    (expected * probe).sum().backward()
    torch.testing.assert_close(x.grad, x_ref.grad, rtol=rtol, atol=atol)
    for name, p in layer.named_parameters():
        assert p.grad is not None, name
        grad = params[name].grad
        torch.testing.assert_close(
            p.grad,
            torch.zeros_like(p) if grad is None else grad,
            rtol=rtol,
            atol=atol,
            msg=lambda text, name=name: f"{name}: {text}",
        )


GRID = [
    (expert, activation, top_k, shared, normalize)
    for expert, activation, top_k, shared, normalize in itertools.product(
        ("mlp", "glu"), ("gelu", "relu", "silu"), (1, 2, 4), (0, 2), (None, False, True)
    )
    if not (normalize and top_k == 1)
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("expert", "activation", "top_k", "shared", "normalize"), GRID)
def test_outputs_and_all_gradients_equal_the_naive_mixture(path, expert, activation, top_k, shared, normalize):
    layer = randomise(
        MoELayer(
            3,
            num_experts=4,
            top_k=top_k,
            expert=expert,
            activation=activation,
            hidden_dim=5,
            num_shared_experts=shared,
            normalize=normalize,
            path=path,
        )
    ).double()
    assert_equals_naive(
        layer,
        torch.randn(6, 3, dtype=torch.float64),
        shared=shared,
        glu=expert == "glu",
        activation=activation,
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("dim", "hidden"), [(8, 16), (5, 7), (1, 1)])
def test_float32_equals_the_naive_mixture_for_widths_that_need_padding_too(path, dim, hidden):
    layer = randomise(MoELayer(dim, num_experts=3, top_k=2, hidden_dim=hidden, path=path))
    assert_equals_naive(layer, torch.randn(9, dim), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("factor", [0.3, 1.0])
def test_capacity_drops_what_the_naive_queue_drops_with_exact_gradients(path, dtype, factor):
    # Uninitialised rows must never leak into a gradient: leave NaN in the memory the products will be given.
    junk = [torch.full((n, w), float("nan"), dtype=dtype) for n in (12, 24) for w in (8, 16, 32) for _ in range(30)]
    layer = randomise(MoELayer(8, num_experts=4, top_k=2, hidden_dim=16, capacity_factor=factor, path=path)).to(dtype)
    x = torch.randn(12, 8, dtype=dtype)
    del junk
    tol = 1e-9 if dtype == torch.float64 else 1e-4
    assert_equals_naive(layer, x, capacity=expert_capacity(12, 2, 4, factor), rtol=tol, atol=tol)


@pytest.mark.parametrize("path", PATHS)
def test_dropped_rows_never_reach_the_input_gradient(path, monkeypatch):
    """The grouped product leaves rows behind its last offset uninitialised, here made NaN on purpose."""
    real = F.grouped_mm

    class Poisoned(torch.autograd.Function):
        @staticmethod
        def forward(ctx, y, kept):
            return torch.where(torch.arange(len(y))[:, None] < kept, y, torch.nan)

        @staticmethod
        def backward(ctx, grad):
            return grad, None

    class PoisonedGrad(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, kept):
            ctx.kept = kept
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return torch.where(torch.arange(len(grad))[:, None] < ctx.kept, grad, torch.nan), None

    def poisoned(a, b, *, offs):
        kept = int(offs[-1])
        return Poisoned.apply(real(PoisonedGrad.apply(a, kept), b, offs=offs), kept)

    monkeypatch.setattr(F, "grouped_mm", poisoned)
    layer = MoELayer(8, num_experts=4, top_k=2, capacity_factor=0.5, path=path)
    x = torch.randn(16, 8, requires_grad=True)
    y = layer(x)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("args", [{}, {"expert": "glu"}, {"num_shared_experts": 1}, {"capacity_factor": 0.5}])
@pytest.mark.parametrize(("dtype", "tol"), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_loop_and_grouped_path_agree(args, dtype, tol):
    loop = MoELayer(8, num_experts=4, top_k=2, path="loop", **args).to(dtype)
    grouped = MoELayer(8, num_experts=4, top_k=2, path="grouped", **args).to(dtype)
    grouped.load_state_dict(loop.state_dict())
    x = torch.randn(3, 7, 8, dtype=dtype)
    outputs = []
    for layer in (loop, grouped):
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        assert y.dtype == dtype
        y.square().sum().backward()
        outputs.append([y, inputs.grad, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tol, atol=tol)


@pytest.mark.parametrize("path", PATHS)
def test_autocast_runs_the_experts_in_half_and_the_router_in_float32(path):
    layer = randomise(MoELayer(8, num_experts=4, top_k=2, num_shared_experts=1, path=path)).eval()
    x = torch.randn(5, 8)
    expected = layer(x)
    seen = []
    handle = layer.router.register_forward_hook(lambda _m, _a, routing: seen.append(routing))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    handle.remove()
    assert y.dtype == torch.bfloat16
    assert seen[0].weight.dtype == torch.float32
    torch.testing.assert_close(seen[0].logits, x @ layer.router.weight.T)
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("path", PATHS)
def test_one_expert_equals_the_dense_mlp(path):
    layer = randomise(MoELayer(4, num_experts=1, hidden_dim=6, path=path)).double()
    e = layer.experts
    x = torch.randn(7, 4, dtype=torch.float64)
    dense = F.linear(F.gelu(F.linear(x, e.w_in[0], e.b_in[0])), e.w_out[0], e.b_out[0])
    torch.testing.assert_close(layer(x), dense)


@pytest.mark.parametrize("path", PATHS)
def test_all_experts_chosen_equal_the_dense_mixture(path):
    layer = randomise(MoELayer(4, num_experts=3, top_k=3, hidden_dim=6, path=path)).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    probs = (x @ layer.router.weight.T).softmax(-1)
    e = layer.experts
    dense = torch.stack(
        [
            sum(
                probs[t, i] * naive_expert(x[t], e.w_in[i], e.b_in[i], e.w_out[i], e.b_out[i], "gelu", False)
                for i in range(3)
            )
            for t in range(7)
        ]
    )
    torch.testing.assert_close(layer(x), dense)


sizes = st.tuples(st.integers(1, 6), st.integers(0, 20), st.integers(0, 10_000), st.sampled_from(PATHS)).flatmap(
    lambda s: st.tuples(st.just(s), st.integers(1, s[0]))
)


def build(case):
    (num_experts, num_tokens, seed, path), top_k = case
    torch.manual_seed(seed)
    layer = randomise(MoELayer(4, num_experts=num_experts, top_k=top_k, hidden_dim=6, path=path)).double().eval()
    return layer, torch.randn(num_tokens, 4, dtype=torch.float64)


@settings(max_examples=25, deadline=None)
@given(sizes)
def test_permuting_the_tokens_permutes_the_output(case):
    layer, x = build(case)
    order = torch.randperm(len(x))
    torch.testing.assert_close(layer(x[order]), layer(x)[order])


@settings(max_examples=25, deadline=None)
@given(sizes)
def test_relabelling_the_experts_changes_nothing(case):
    layer, x = build(case)
    expected = layer(x)
    order = torch.randperm(layer.num_experts)
    with torch.no_grad():
        for p in (layer.router.weight, *layer.experts.parameters()):
            p.copy_(p[order].clone())
    torch.testing.assert_close(layer(x), expected)


@settings(max_examples=25, deadline=None)
@given(sizes)
def test_a_tokens_result_does_not_depend_on_its_batch(case):
    layer, x = build(case)
    alone = [layer(token[None]) for token in x]
    torch.testing.assert_close(layer(x), torch.cat(alone) if alone else x)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("args", [{}, {"num_shared_experts": 1}, {"capacity_factor": 1.0}, {"expert": "glu"}])
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(path, args):
    layer = MoELayer(8, num_experts=4, top_k=2, path=path, **args)
    x = torch.randn(0, 5, 8, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_idle_experts_get_zero_gradients_not_none(path, dtype):
    layer = MoELayer(8, num_experts=16, top_k=1, path=path).to(dtype)
    layer(torch.randn(1, 8, dtype=dtype)).sum().backward()
    for name, p in layer.named_parameters():
        assert p.grad is not None, name
    grads = layer.experts.w_out.grad.flatten(1).abs().sum(1)
    assert (grads == 0).sum() == 15
    assert (grads > 0).sum() == 1


@pytest.mark.parametrize("path", PATHS)
def test_top_1_gives_the_router_a_gradient(path):
    layer = MoELayer(8, num_experts=4, top_k=1, path=path)
    layer(torch.randn(10, 8)).square().sum().backward()
    assert layer.router.weight.grad.abs().sum() > 1e-6


def test_shape_is_kept_for_any_leading_dimensions():
    layer = MoELayer(4, num_experts=2).eval()
    x = torch.randn(2, 3, 5, 4)
    y = layer(x)
    assert y.shape == x.shape
    torch.testing.assert_close(y, layer(x.reshape(-1, 4)).reshape(x.shape))
    torch.testing.assert_close(layer(x.transpose(0, 2)), y.transpose(0, 2))


@pytest.mark.parametrize("shape", [(2, 3), (4,), (2, 5, 6)])
def test_an_input_of_another_width_is_refused(shape):
    with pytest.raises(InputError, match=r"takes \(\.\.\., 4\), got"):
        MoELayer(4, num_experts=2)(torch.randn(shape))


def test_dropout_acts_on_hidden_units_in_training_only():
    layer = MoELayer(4, num_experts=2, num_shared_experts=1, dropout=0.5)
    x = torch.randn(6, 4)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))
    for part in (layer.experts, layer.shared):
        part.dropout = 0.0
    torch.testing.assert_close(layer(x), layer.train()(x))


def test_full_dropout_leaves_the_output_bias():
    layer = randomise(MoELayer(4, num_experts=2, dropout=1.0))
    x = torch.randn(6, 4)
    probs = (x @ layer.router.weight.T).softmax(-1)
    weight, chosen = probs.max(-1)
    torch.testing.assert_close(layer(x), weight[:, None] * layer.experts.b_out[chosen])


def test_the_gated_expert_counts_its_wider_input_product():
    assert MoELayer(4, num_experts=2, hidden_dim=6).experts.w_in.shape == (2, 6, 4)
    assert MoELayer(4, num_experts=2, hidden_dim=6, expert="glu").experts.w_in.shape == (2, 12, 4)
    assert MoELayer(4, num_experts=2).experts.hidden_dim == 16


def test_inactive_parameters_are_those_of_experts_a_token_does_not_use():
    layer = MoELayer(4, num_experts=5, top_k=2, hidden_dim=6, num_shared_experts=1)
    one_expert = 6 * 4 + 6 + 4 * 6 + 4
    assert layer.inactive_parameters() == 3 * one_expert


def test_meta_tensors_pass_in_training_and_evaluation():
    with torch.device("meta"):
        layer = MoELayer(8, num_experts=4, top_k=2, num_shared_experts=1, capacity_factor=1.0)
    x = torch.randn(2, 5, 8, device="meta")
    assert layer(x).shape == x.shape
    assert layer.eval()(x).device.type == "meta"
