"""Every kind of experts equals a slow reference, in values and in all gradients, on every path it has."""

from __future__ import annotations

import copy
import dataclasses
import re

import pytest
import torch
from expert_reference import GRID, KINDS, REGISTERED, D, E, H, build, mixture
from torch import nn
from torch.nn import functional as F

from moezoo.errors import InputError
from moezoo.moe import MoELayer, Routing, unstack
from moezoo.moe.dispatch import make_plan
from moezoo.moe.experts import experts as registry
from moezoo.moe.experts.modules import ModuleExperts

CASES = [
    (kind, path)
    for kind in KINDS
    for path in ("auto", *registry.get(REGISTERED.get(kind, kind)).paths)
    if path not in ("packed", "native")  # no gradients there, or no float64
]


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_outputs_and_all_gradients_equal_the_reference(kind, path):
    layer = build(kind, path=path)
    x = torch.randn(5, 6, D, dtype=torch.float64)
    results = []
    for run in (lambda v: mixture(kind, layer, v), layer):
        layer.zero_grad()
        inputs = x.clone().requires_grad_()
        y = run(inputs)
        (y * torch.linspace(-1, 2, y.numel(), dtype=torch.float64).view_as(y)).sum().backward()
        results.append(
            [y, inputs.grad, *(torch.zeros_like(p) if p.grad is None else p.grad for p in layer.parameters())]
        )
    assert layer.router.weight.grad.abs().sum() > 0
    for expected, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_idle_experts_have_zero_gradients_not_none(kind, path):
    layer = build(kind, path=path, top_k=1)
    with torch.no_grad():  # all tokens to expert 2
        layer.router.weight.zero_()
        layer.router.weight[2, 0] = 50
    x = torch.rand(1, 6, D, dtype=torch.float64) + 1
    layer(x).sum().backward()
    for name, p in layer.experts.named_parameters():
        if not p.requires_grad:
            continue
        assert p.grad is not None, name
        if name.startswith("members."):
            idle = p.grad if name.split(".")[1] != "2" else p.grad[:0]
        else:
            idle = p.grad[[0, 1, 3]]
        assert not idle.any(), name


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(kind, path):
    layer = build(kind, path=path)
    x = torch.randn(0, 6, D, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in layer.parameters() if p.requires_grad)


@pytest.mark.parametrize(("kind", "path"), [c for c in CASES if c[0] != "conv" and c[1] != "loop"])
def test_dropped_assignments_count_nowhere(kind, path):
    layers = {name: build(kind, capacity_factor=0.5, path=name) for name in ("loop", path)}
    layers[path].load_state_dict(layers["loop"].state_dict())
    x = torch.randn(3, 6, D, dtype=torch.float64)
    grads = []
    for layer in layers.values():
        y = layer(x)
        y.square().sum().backward()
        grads.append([y, *(p.grad for p in layer.parameters() if p.requires_grad)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(("kind", "path"), [c for c in CASES if c[0] != "conv" and c[1] != "auto"])
def test_nothing_that_a_dropped_token_holds_reaches_any_result(kind, path):
    experts = build(kind).experts
    x = torch.randn(5, D, dtype=torch.float64)
    dropped = torch.zeros(5, 2, dtype=torch.bool)
    dropped[2], dropped[4, 1] = True, True
    routing = Routing.from_logits(torch.randn(5, E, dtype=torch.float64), 2)
    routing = dataclasses.replace(routing, dropped=dropped.flatten())
    results = []
    for value, way in ((0.0, "loop"), (torch.inf, path)):
        inputs = x.clone()
        inputs[2] = value
        inputs.requires_grad_()
        experts.zero_grad()
        plan = make_plan(routing, way)
        y = plan.combine(experts(plan.gather(inputs), plan))
        assert not y[2].any()
        y.square().sum().backward()
        results.append([y, inputs.grad, *(p.grad for p in experts.parameters() if p.requires_grad)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_makes_an_equal_layer(kind):
    layer, other = build(kind), build(kind)
    x = torch.randn(2, 6, D, dtype=torch.float64)
    assert not torch.equal(layer(x), other(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x), other(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["loop", "static"])
def test_under_autocast_it_stays_near_full_precision(kind, path):
    layer = build(kind, path=path).float()
    x = torch.randn(2, 6, D)
    expected = layer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    full = kind in ("residual_mlp", "residual_identity", "mixed")  # norms scale, and x is added, in float32
    assert y.dtype == (torch.float32 if full else torch.bfloat16)
    torch.testing.assert_close(y.float(), expected, rtol=0.1, atol=0.2)


@pytest.mark.parametrize("kind", ["residual_mlp", "residual_identity", "lora", "conv", "mixed", "unequal"])
def test_full_dropout_removes_the_hidden_units_in_training_only(kind):
    args = {"dropout": 1.0, **({"top_k": 1} if kind != "conv" else {})}
    layer, plain = build(kind, **args), build(kind, **{**args, "dropout": 0.0})
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(4, 6, D, dtype=torch.float64)
    assert not torch.allclose(layer(x), plain(x))
    torch.testing.assert_close(layer.eval()(x), plain(x))


@pytest.mark.parametrize("path", ["loop", "grouped", "static", "modules"])
@pytest.mark.parametrize("residual", ["linear", "identity"])
def test_experts_with_a_residual_drop_units_after_both_activations_and_never_the_residual(residual, path):
    torch.manual_seed(0)
    args = {"dropout": 0.5, "top_k": 1, "path": "loop" if path == "modules" else path}
    layer = build("residual_mlp", expert_args={"residual": residual}, **args)
    layer.router.weight.data.zero_()  # everything to expert 0, whose weight is 1 / E
    x = torch.randn(200, D, dtype=torch.float64)
    weight, bias = (p[0] if p is not None else None for p in (layer.experts.w_res, layer.experts.b_res))
    added = x if weight is None else F.linear(x, weight, bias)
    if path == "modules":
        layer.experts = ModuleExperts(D, H, E, modules=unstack(layer.experts))
    trained, full = (E * m(x) - added for m in (layer, copy.deepcopy(layer).eval()))
    dropped = trained.abs() < 1e-12
    assert 0.4 < dropped.double().mean() < 0.6
    # What the second dropout kept is scaled by 2; it would be twice the full value had the first one done nothing.
    assert ((trained - 2 * full)[~dropped].abs() > 1e-9).double().mean() > 0.9


@pytest.mark.parametrize(("residual", "more"), [("linear", {"w_res": (E, D, D), "b_res": (E, D)}), ("identity", {})])
def test_experts_with_a_residual_have_a_norm_per_expert_and_a_projection_if_asked(residual, more):
    experts = MoELayer(
        D, num_experts=E, hidden_dim=H, expert="residual_mlp", expert_args={"residual": residual}
    ).experts
    assert {name: tuple(t.shape) for name, t in experts.state_dict().items()} == {
        "w_in": (E, H, D),
        "b_in": (E, H),
        "norm1_weight": (E, H),
        "norm1_bias": (E, H),
        "w_out": (E, D, H),
        "b_out": (E, D),
        "norm2_weight": (E, D),
        "norm2_bias": (E, D),
        **more,
    }
    for name, p in experts.named_parameters():
        if "norm" in name:
            assert torch.equal(p, torch.full_like(p, name.endswith("weight"))), name
        elif name.startswith("w_"):
            assert 0 < p.abs().max() <= p.shape[-1] ** -0.5, name
        else:
            assert not p.any(), name


def test_low_rank_experts_start_as_their_shared_mlp_and_leave_it_as_it_is():
    layer = MoELayer(D, num_experts=E, top_k=2, hidden_dim=H, expert="lora")
    w_in, b_in, w_out, b_out = torch.randn(H, D), torch.randn(H), torch.randn(D, H), torch.randn(D)
    layer.experts.load_base(w_in, b_in, w_out, b_out)
    x = torch.randn(7, D)
    torch.testing.assert_close(layer(x), F.linear(F.gelu(F.linear(x, w_in, b_in)), w_out, b_out))
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        layer(x).square().sum().backward()
        optimiser.step()
    assert torch.equal(layer.state_dict()["experts.base.fc1.weight"], w_in)
    assert torch.equal(layer.state_dict()["experts.base.fc2.bias"], b_out)
    assert layer.experts.up_in.abs().sum() > 0
    with pytest.raises(InputError, match=r"b_in must be \(6,\), got \(5,\)"):
        layer.experts.load_base(torch.zeros(H, D), torch.zeros(5), w_out, b_out)
    assert torch.equal(layer.experts.base.fc1.weight, w_in), "nothing is copied where one does not fit"


def test_modules_that_refuse_an_empty_batch_are_not_called_without_rows():
    torch.manual_seed(0)
    layer = MoELayer(
        D, num_experts=8, expert="modules", expert_args={"make": lambda e: nn.Sequential(nn.BatchNorm1d(D))}
    )
    with torch.no_grad():
        layer.router.weight.zero_()
        layer.router.weight[5, 0] = 1
    layer(torch.rand(6, D)).sum().backward()
    counted = [m[0].num_batches_tracked.item() for m in layer.experts.members]
    assert counted == [0, 0, 0, 0, 0, 1, 0, 0]
    assert all(p.grad is not None for p in layer.parameters())


def test_modules_are_taken_as_they_are_and_numbers_reach_make():
    given = [nn.Linear(D, D) for _ in range(3)]
    layer = MoELayer(D, num_experts=3, expert="modules", expert_args={"modules": given})
    assert all(ours is theirs for ours, theirs in zip(layer.experts.members, given, strict=True))
    asked = []
    MoELayer(D, num_experts=3, expert="modules", expert_args={"make": lambda e: asked.append(e) or nn.Identity()})
    assert asked == [0, 1, 2]


def test_a_module_that_changes_the_width_is_named():
    layer = MoELayer(D, num_experts=2, expert="modules", expert_args={"make": lambda e: nn.Linear(D, 3)})
    with pytest.raises(InputError, match=r"expert [01] \(Linear\) must give \(n, 4\).*got \(\d+, 3\)"):
        layer(torch.randn(5, D))


@pytest.mark.parametrize("path", ["loop", "static"])
def test_a_module_that_changes_the_number_of_rows_is_named(path):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(0, keepdim=True)

    layer = MoELayer(D, num_experts=1, expert="modules", expert_args={"modules": [Mean()]}, path=path)
    with pytest.raises(InputError, match=r"expert 0 \(Mean\) must give \(n, 4\) for n = 5 rows of.*got \(1, 4\)"):
        layer(torch.randn(5, D))


def test_convolutions_mix_the_tokens_of_a_map_and_of_no_other():
    layer = build("conv")
    x = torch.randn(3, 6, D, dtype=torch.float64)
    before = layer(x)
    changed = x.clone()
    changed[1, 0] += 1e-3
    moved = (layer(changed) - before).abs().amax(-1) > 0
    assert not moved[0].any()
    assert not moved[2].any()
    assert moved[1, [0, 1, 3, 4]].all(), "its neighbours on the 2 x 3 grid"
    assert layer.experts.grid == GRID


def test_a_split_map_is_refused_at_the_call():
    class Splitting(type(build("conv").router)):
        def route_samples(self, x_TD, samples, token_type):
            return self.route(x_TD) if samples == 1 else super().route_samples(x_TD, len(x_TD), token_type)

    layer = build("conv")
    layer.router.__class__ = Splitting
    with pytest.raises(InputError, match=r"split a map of 2 x 3 tokens.*'per_image'"):
        layer(torch.randn(8, 6, D, dtype=torch.float64))


@pytest.mark.parametrize("router", ["per_image", "dense_softmax"])
@pytest.mark.parametrize("shape", [(2, 7), (4, 9), (2, 3), (7,), (2, 3, 2), (4, 1, 6), (2, 2, 3, 2)])
def test_tokens_that_are_not_whole_maps_of_each_sample_are_refused(router, shape):
    layer = build("conv", router=router)
    with pytest.raises(InputError, match=rf"grid=\(2, 3\).*got {re.escape(str((*shape, D)))}"):
        layer(torch.randn(*shape, D, dtype=torch.float64))


@pytest.mark.parametrize("router", ["per_image", "dense_softmax"])
@pytest.mark.parametrize("shape", [(12,), (3, 6), (3, 12), (3, 2, 3), (2, 4, 2, 3), (0, 2, 3)])
def test_whole_maps_are_taken_however_they_lie(router, shape):
    assert build("conv", router=router)(torch.randn(*shape, D, dtype=torch.float64)).shape == (*shape, D)
