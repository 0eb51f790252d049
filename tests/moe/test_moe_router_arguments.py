"""``router_args``: what a router does not know is refused by name."""

import pytest

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer
from moezoo.moe.routers import SoftmaxTopKRouter, routers


class Tempered(SoftmaxTopKRouter):
    def __init__(self, dim, num_experts, *, temperature=1.0, **others):
        super().__init__(dim, num_experts, **others)
        self.temperature = temperature


class Plain(SoftmaxTopKRouter):
    def __init__(self, dim, num_experts, top_k=1, normalize=None, capacity_factor=None):
        super().__init__(dim, num_experts, top_k=top_k, normalize=normalize, capacity_factor=capacity_factor)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr(routers, "_items", {**routers._items, "tempered": Tempered, "plain": Plain})


@pytest.mark.parametrize(
    ("router", "args", "words"),
    [
        ("softmax_topk", {"nose_std": 1.0}, r"'softmax_topk' has no argument 'nose_std'\. Did you mean: noise_std\?"),
        ("softmax_topk", {"top_k": 1}, r"no argument 'top_k'.*Allowed: noise_std, jitter"),
        ("tempered", {"temprature": 1.0}, r"Did you mean: temperature\? Allowed: temperature, noise_std, jitter"),
        ("plain", {"noise_std": 1.0}, r"'plain' has no argument 'noise_std'\. Allowed: none"),
        ("softmax_topk", ["noise_std"], "must map arguments"),
        ("softmax_topk", {"noise_std": -1.0}, "noise_std=-1.0"),
    ],
)
def test_an_argument_the_router_does_not_have_is_refused(router, args, words):
    with pytest.raises(ConfigError, match=words):
        MoELayer(8, num_experts=2, router=router, router_args=args)


@pytest.mark.parametrize("given", [{"group_size": 4}, {"capacity_rule": "vmoe"}, {"eval_capacity_factor": 2.0}])
def test_an_argument_of_the_layer_that_the_router_does_not_take_is_refused(given):
    ((name, value),) = given.items()
    with pytest.raises(ConfigError, match=f"{name}={value!r} is not allowed: router 'plain' has no such argument"):
        MoELayer(8, num_experts=2, router="plain", capacity_factor=1.0, **given)


def test_arguments_reach_the_router_and_its_base_class():
    layer = MoELayer(8, num_experts=2, router="tempered", router_args={"temperature": 2.0, "jitter": 0.1})
    assert (layer.router.temperature, layer.router.jitter) == (2.0, 0.1)
    assert MoELayer(8, num_experts=2, router="plain").num_experts == 2
