"""Stacked experts as modules and back, bit by bit."""

from __future__ import annotations

import pytest
import torch
from expert_reference import D, E, H, build
from torch import nn

from moezoo.backbones.mlps import recognise
from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, stack, unstack
from moezoo.moe.experts.modules import ModuleExperts

STACKED = ["mlp", "glu", "residual_mlp", "residual_identity"]
kinds = pytest.mark.parametrize("kind", STACKED)


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_there_and_back_every_bit_is_kept(kind, dtype):
    experts = build(kind, activation="quick_gelu", dropout=0.25).to(dtype).experts.eval()
    experts.w_in.requires_grad_(False)
    modules = unstack(experts)
    assert len(modules) == E
    again = stack(modules)
    assert type(again) is type(experts)
    assert (again.activation, again.dropout, again.training) == ("quick_gelu", 0.25, False)
    assert again.extra_repr() == experts.extra_repr()
    assert getattr(again, "eps", None) == getattr(experts, "eps", None)
    assert list(again.state_dict()) == list(experts.state_dict())
    for (name, p), (other, q) in zip(experts.named_parameters(), again.named_parameters(), strict=True):
        assert (name, p.dtype, p.requires_grad) == (other, q.dtype, q.requires_grad)
        assert torch.equal(p, q)
    third = unstack(again)
    for p, q in zip(modules.parameters(), third.parameters(), strict=True):
        assert torch.equal(p, q)
        assert p.requires_grad == q.requires_grad


@kinds
def test_the_copies_share_no_memory(kind):
    experts = build(kind).experts
    before = {name: p.clone() for name, p in experts.named_parameters()}
    with torch.no_grad():
        for p in unstack(experts).parameters():
            p.zero_()
    assert all(torch.equal(p, before[name]) for name, p in experts.named_parameters())


@kinds
def test_modules_compute_what_the_stack_does(kind):
    layer = build(kind, num_shared_experts=1)
    x = torch.randn(3, 6, D, dtype=torch.float64)
    expected = layer(x)
    layer.experts = ModuleExperts(D, H, E, modules=unstack(layer.experts))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    other = MoELayer(
        D, num_experts=E, top_k=2, hidden_dim=H, expert="modules", expert_args={"modules": layer.experts.members}
    ).double()
    other.router.load_state_dict(layer.router.state_dict())
    torch.testing.assert_close(other(x) + layer.shared(x.reshape(-1, D)).view_as(x), expected, rtol=1e-12, atol=1e-12)


def test_names_are_those_of_timms_mlps():
    assert list(unstack(build("mlp").experts)[0].state_dict()) == ["fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"]
    module = unstack(build("residual_mlp").experts)[0]
    assert [name for name, _ in module.named_children()] == [
        *("fc1", "norm1", "act", "drop1", "fc2", "norm2", "drop2", "proj")
    ]
    assert isinstance(unstack(build("residual_identity").experts)[0].proj, nn.Identity)


@pytest.mark.parametrize(("kind", "hidden"), [("mlp", H), ("glu", H)])
def test_a_module_is_known_as_the_dense_mlp_it_is(kind, hidden):
    experts = build(kind).experts
    module = unstack(experts)[1]
    found = recognise(module, rank=3)
    assert (found.expert, found.activation, found.hidden_dim) == (kind, "gelu", hidden)
    assert torch.equal(found.weights(module.state_dict()).w_in, experts.w_in[1])


def test_meta_tensors_stay_meta():
    with torch.device("meta"):
        experts = MoELayer(D, num_experts=E).experts
    assert stack(unstack(experts)).w_in.is_meta


@pytest.mark.parametrize("kind", ["lora", "conv", "mixed", "modules"])
def test_other_kinds_are_refused(kind):
    with pytest.raises(ConfigError, match=r"cannot be unstacked\. Allowed: StackedMLP, StackedGLU, ResidualMLP"):
        unstack(build(kind).experts)


def _another_activation(modules):
    modules[2] = unstack(build("mlp", activation="relu").experts)[2]


def _another_width(modules):
    modules[2] = unstack(build("mlp", hidden_dim=5).experts)[2]


def _frozen(modules):
    modules[2].fc1.weight.requires_grad_(False)


def _without_bias(modules):
    modules[2].fc1.bias = None


def _residual(modules):
    modules[2] = unstack(build("residual_mlp").experts)[2]


def _foreign(modules):
    modules[2] = nn.Linear(D, D)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_activation, "module 2 has activation relu, module 0 gelu"),
        (_another_width, r"module 2 has fc1\.weight \(5, 4\).*module 0 \(6, 4\)"),
        (_frozen, r"module 2 has fc1\.weight .*requires_grad=False, module 0 .*requires_grad=True"),
        (_without_bias, r"MLPExpert with parameters \['fc1\.weight', 'fc2\.bias', 'fc2\.weight'\]"),
        (_residual, "module 2 has type ResidualMLPExpert, module 0 MLPExpert"),
        (_foreign, "a Linear with parameters"),
        (lambda modules: modules.__delitem__(slice(None)), "at least one"),
    ],
)
def test_modules_that_differ_are_not_stacked(change, message):
    modules = unstack(build("mlp").experts)
    change(modules)
    with pytest.raises(ConfigError, match=message):
        stack(modules)


def _another_residual(modules):
    modules[2] = unstack(build("residual_identity").experts)[2]


def _another_norm(modules):
    for module in modules:
        module.norm2.eps = 1e-3


def _another_dropout(modules):
    for module in modules:
        module.drop2.p = 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_another_residual, "module 2 has residual identity, module 0 linear"),
        (_another_norm, "two norms of unequal eps"),
        (_another_dropout, "two unequal dropouts"),
    ],
)
def test_modules_with_a_residual_that_a_stack_cannot_hold_are_not_stacked(change, message):
    modules = unstack(build("residual_mlp").experts)
    change(modules)
    with pytest.raises(ConfigError, match=message):
        stack(modules)
