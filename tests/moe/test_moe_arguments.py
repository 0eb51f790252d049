"""Bad arguments are refused by name, with the nearest spelling; routers and experts can be registered."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moezoo.errors import ConfigError, RegistrationError, UnknownModelError
from moezoo.moe import MoELayer, Routing, aux_loss, record_routing, register_experts, register_router
from moezoo.moe.experts import Experts
from moezoo.moe.experts import experts as expert_registry
from moezoo.moe.routers import Router
from moezoo.moe.routers import routers as router_registry


def build(**args):
    return MoELayer(args.pop("dim", 8), **{"num_experts": 4, **args})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("dim", [0, -1, 1.5, True, "8"]),
        ("num_experts", [0, -1, 1.5, True]),
        ("top_k", [0, -1, 5, 1.0, True]),
        ("hidden_dim", [0, -4, 2.5, True]),
        ("num_shared_experts", [-1, 0.5, True]),
        ("capacity_factor", [0, -1, float("nan"), float("inf"), True, "1"]),
        ("dropout", [-0.1, 1.5, float("nan"), True, "0.1"]),
        ("normalize", ["yes", 2]),
        ("aux_weights", [{"load_balancing": -1}, {"load_balancing": float("nan")}, ["load_balancing"]]),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ConfigError, match=name):
            build(**{name: value})


@pytest.mark.parametrize("name", ["noise_std", "jitter"])
@pytest.mark.parametrize("value", [-1, float("nan"), True])
def test_router_arguments_are_checked(name, value):
    with pytest.raises(ConfigError, match=name):
        build(router_args={name: value})


def test_normalised_top_1_is_refused_because_the_router_would_not_learn():
    with pytest.raises(ConfigError, match=r"normalize=True with top_k=1.*no gradient"):
        build(normalize=True)
    assert build(top_k=2).router.normalize is True
    assert build(top_k=1).router.normalize is False
    assert build(num_experts=1, normalize=True).router.normalize is True, "a single expert has nothing to learn"


@pytest.mark.parametrize(
    ("args", "error", "nearest"),
    [
        ({"router": "softmax_topkk"}, UnknownModelError, "softmax_topk"),
        ({"expert": "mpl"}, UnknownModelError, "mlp"),
        ({"activation": "gellu"}, ConfigError, "gelu"),
        ({"path": "group"}, ConfigError, "grouped"),
        ({"aux_weights": {"load_balance": 0.1}}, ConfigError, "load_balancing"),
    ],
)
def test_unknown_words_are_answered_with_the_nearest_spelling(args, error, nearest):
    with pytest.raises(error, match=rf"Did you mean: {nearest}"):
        build(**args)


@pytest.fixture
def _clean_registries():
    saved = dict(router_registry._items), dict(expert_registry._items)
    yield
    router_registry._items, expert_registry._items = saved


@pytest.mark.usefixtures("_clean_registries")
def test_a_registered_router_and_registered_experts_make_a_layer():
    @register_router("everything_to_one")
    class ToOne(Router):
        def __init__(self, dim, num_experts, *, target=0, **shared):
            super().__init__(dim, num_experts, **shared)
            self.target = target
            self.bias = nn.Parameter(torch.zeros(num_experts))

        def route(self, x_TD):
            hit = torch.zeros(self.num_experts, dtype=x_TD.dtype)
            hit[self.target] = 20
            return Routing.from_logits((self.bias + hit).expand(len(x_TD), -1), self.top_k, self.normalize)

    @register_experts("scale")
    class Scale(Experts):
        def __init__(self, dim, hidden_dim, num_experts, *, activation, dropout):
            super().__init__(dim, hidden_dim, num_experts)
            self.scale = nn.Parameter(torch.arange(float(num_experts)))

        def forward(self, x_ND, plan):
            return x_ND * self.scale[plan.expert_index][:, None]

        def flops(self, rows):
            return 0

    layer = build(router="everything_to_one", expert="scale", router_args={"target": 3})
    x = torch.randn(2, 5, 8)
    with record_routing(layer) as records:
        torch.testing.assert_close(layer(x), 3 * x)
    assert records[0].routing.counts().tolist() == [0, 0, 0, 10]
    assert aux_loss(layer).item() > 0
    assert layer.inactive_parameters() == 3

    with pytest.raises(RegistrationError, match="already registered"):
        register_router("everything_to_one")(ToOne)
    with pytest.raises(RegistrationError, match="already registered"):
        register_experts("mlp")(Scale)


@pytest.mark.parametrize(("base", "args"), [(Router, (8, 4)), (Experts, (8, 16, 4))])
def test_a_subclass_that_leaves_out_its_one_method_cannot_be_built(base, args):
    with pytest.raises(TypeError, match="abstract"):
        type("Empty", (base,), {})(*args)


def test_the_layer_names_its_parts():
    text = str(build(top_k=2, expert="glu", path="loop", aux_weights={"router_z": 0.5}))
    for part in (
        "num_experts=4",
        "top_k=2",
        "StackedGLU",
        "path='loop'",
        "'router_z': 0.5",
        "4 x (8 -> 32 -> 8)",
    ):
        assert part in text
