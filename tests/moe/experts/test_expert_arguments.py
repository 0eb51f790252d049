"""Bad arguments of experts are refused by name, with what is allowed and the nearest spelling."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer
from moezoo.moe.experts import experts as registry


def build(expert, args, **more):
    return MoELayer(8, **{"num_experts": 4, "expert": expert, "expert_args": args, **more})


@pytest.mark.parametrize(
    ("expert", "wrong", "nearest"),
    [
        ("lora", "rnak", "rank"),
        ("conv", "kernel_sise", "kernel_size"),
        ("residual_mlp", "residaul", "residual"),
        ("mixed", "kind", "kinds"),
        ("modules", "module", "modules"),
    ],
)
def test_an_unknown_argument_is_answered_with_the_nearest(expert, wrong, nearest):
    with pytest.raises(ConfigError, match=rf"experts '{expert}' has no argument '{wrong}'.*Did you mean: {nearest}"):
        build(expert, {wrong: 1})


def test_arguments_of_the_layer_are_no_further_arguments():
    for name in ("activation", "dropout", "hidden_dim"):
        with pytest.raises(ConfigError, match=rf"experts 'mlp' has no argument '{name}'.*Allowed: none"):
            build("mlp", {name: 1})
    with pytest.raises(ConfigError, match=r"expert_args=\['rank'\].*must map"):
        build("lora", ["rank"])


@pytest.mark.parametrize(
    ("expert", "args", "message"),
    [
        ("residual_mlp", {"residual": "linar"}, r"residual='linar'.*Did you mean: linear\? Allowed: linear, identity"),
        ("residual_mlp", {"residual": None}, "residual=None.*Allowed: linear, identity"),
        ("residual_mlp", {"eps": 0}, "eps=0"),
        ("residual_mlp", {"eps": float("nan")}, "eps=nan"),
        ("lora", {"rank": 0}, "rank=0"),
        ("lora", {"rank": 1.5}, r"rank=1\.5"),
        ("lora", {"alpha": -1}, "alpha=-1"),
        ("conv", {}, r"grid=None.*\(height, width\)"),
        ("conv", {"grid": 3}, r"grid=3.*\(height, width\)"),
        ("conv", {"grid": (3, 0)}, "grid=0"),
        ("conv", {"grid": (3, 3), "kernel_size": 4}, "kernel_size=4.*odd"),
        ("conv", {"grid": (3, 3), "kernel_size": 0}, "kernel_size=0"),
        ("mixed", {"kinds": ["mlp"] * 3}, "kinds=.*list of 4"),
        ("mixed", {"kinds": "mlp"}, "kinds='mlp'.*list of 4"),
        ("mixed", {"kinds": ["mlp", "mlp", "mlp", "coppy"]}, "kinds='coppy'.*Did you mean: copy"),
        ("mixed", {"hidden_dims": [1, 2, 3]}, "hidden_dims=.*list of 4"),
        ("mixed", {"hidden_dims": [1, 2, 3, 0]}, "hidden_dims=0"),
        ("mixed", {"kinds": ["mlp", "zero", "mlp", "mlp"], "hidden_dims": [1, 2, 3, 4]}, "hidden_dims: 2.*'zero'"),
        ("modules", {}, "either modules or make"),
        ("modules", {"modules": [nn.Identity()] * 4, "make": nn.Identity}, "either modules or make"),
        ("modules", {"make": 3}, "make=3"),
        ("modules", {"modules": [nn.Identity()]}, "modules: 4 modules are needed.*Identity"),
        ("modules", {"modules": 5}, "modules: 4 modules are needed.*got 5"),
        ("modules", {"modules": ["a", "b", "c", "d"]}, "modules: 4 modules are needed.*str"),
        ("modules", {"modules": [nn.Identity()] * 4}, "number 1 is the same module"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(expert, args, message):
    with pytest.raises(ConfigError, match=message):
        build(expert, args, router="per_image")


@pytest.mark.parametrize("more", [{"activation": "relu"}, {"dropout": 0.5}])
def test_arguments_that_modules_would_not_look_at_are_refused(more):
    with pytest.raises(ConfigError, match=next(iter(more))):
        build("modules", {"make": lambda e: nn.Identity()}, **more)


@pytest.mark.parametrize(
    "more", [{}, {"top_k": 2}, {"router": "per_image", "capacity_factor": 2.0}, {"router": "expert_choice"}]
)
def test_convolutions_refuse_routers_that_may_split_a_map(more):
    with pytest.raises(ConfigError, match=r"router='\w+' is not allowed with expert='conv'.*Allowed: 'per_image'"):
        build("conv", {"grid": (2, 2)}, **more)


@pytest.mark.parametrize("more", [{"router": "per_image"}, {"router": "dense_softmax"}, {"top_k": 4}])
def test_convolutions_take_routers_that_keep_maps_whole(more):
    layer = build("conv", {"grid": [2, 2]}, **more)
    assert layer(torch.randn(2, 4, 8)).shape == (2, 4, 8)


def test_a_path_that_a_kind_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"path='grouped' is not allowed.*Allowed: auto, loop, static"):
        build("mixed", {}, path="grouped")


def test_the_kinds_are_found_by_name():
    assert set(registry) >= {"conv", "glu", "lora", "mixed", "mlp", "modules", "residual_mlp"}
