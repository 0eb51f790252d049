"""timm's layer-wise learning rates treat an adapter as a part of the block it follows."""

import copy
import pickle

import pytest
import timm
import torch
from timm.models import group_modules, group_parameters
from timm.optim import param_groups_layer_decay

from moezoo import inject_moe
from moezoo.backbones.groups import HostGroups
from moezoo.backbones.inject import adapters_of

SLIM = {"num_experts": 2, "num_experts_shared": 1, "expert_dim": 8, "mlp_ratio": 0.1}
NATURAL = [
    ("vit_tiny_patch16_224", "all"),
    ("swin_tiny_patch4_window7_224", "all"),
    ("convnext_atto", None),
    ("resnet18", "all"),
    ("densenet121", "all"),
    ("regnetx_002", None),
    ("rdnet_tiny", None),  # its matcher knows no coarse groups
]
MISSED = [("vgg11", None), ("nest_tiny", "all"), ("dla34", None), ("resnet18", "act1")]


def injected(arch, where):
    with torch.device("meta"):
        model = timm.create_model(arch)
    return inject_moe(model, where, **SLIM)


def parameters_of_host(model, path):
    """Of the module that an adapter follows, or, if it has none, the last before it as they are registered."""
    adapters = tuple(f"{p}." for p in adapters_of(model))
    host = path.removesuffix(".entity_moe")
    names = [n for n, _ in model.named_parameters() if not n.startswith(adapters) or n.startswith(f"{path}.")]
    own = [n for n in names if n.startswith(f"{host}.") and not n.startswith(f"{path}.")]
    return own or [names[names.index(next(n for n in names if n.startswith(f"{path}."))) - 1]]


def check(model, coarse=False):
    groups = group_parameters(model, model.group_matcher(coarse=coarse), reverse=True)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    for path in adapters_of(model):
        own = {group for name, group in groups.items() if name.startswith(f"{path}.")}
        assert len(own) == 1, path
        assert own == {groups[parameters_of_host(model, path)[-1]]}, path
    return groups


@pytest.mark.parametrize(("arch", "where"), [*NATURAL, *MISSED])
def test_an_adapter_is_in_the_group_of_its_block(arch, where):
    model = injected(arch, where)
    check(model)
    if arch != "rdnet_tiny":
        check(model, coarse=True)


@pytest.mark.parametrize(("arch", "where"), MISSED)
def test_timms_own_pattern_would_lose_these(arch, where):
    model = injected(arch, where)
    groups = group_parameters(model, type(model).group_matcher(model), reverse=True)
    lost = [
        path
        for path in adapters_of(model)
        if groups[f"{path}.norm.weight"] != groups[parameters_of_host(model, path)[-1]]
    ]
    assert lost


@pytest.mark.parametrize(("arch", "where"), NATURAL[:-1])
def test_where_timms_pattern_finds_the_block_nothing_is_changed(arch, where):
    model = injected(arch, where)
    assert model.group_matcher() == type(model).group_matcher(model)
    assert "group_matcher" not in vars(model)


def test_the_rest_of_the_model_is_grouped_as_before():
    with torch.device("meta"):
        plain = timm.create_model("dla34")
    before = group_parameters(plain, plain.group_matcher(), reverse=True)
    after = check(injected("dla34", None))
    names = list(before)
    pairs = [(a, b) for a in names[::7] for b in names[::5]]
    assert [before[a] < before[b] for a, b in pairs] == [after[a] < after[b] for a, b in pairs]


def test_modules_are_grouped_like_their_parameters():
    model = injected("vgg11", None)
    groups = group_parameters(model, model.group_matcher(), reverse=True)
    modules = group_modules(model, model.group_matcher(), reverse=True)
    assert modules["features.19.entity_moe.norm"] == modules["features.18"]
    assert all(groups[f"{a}.weight"] <= groups[f"{b}.weight"] for a in modules for b in modules
               if hasattr(model.get_submodule(a), "weight") and hasattr(model.get_submodule(b), "weight")
               and modules[a] < modules[b])  # fmt: skip


def test_layer_decay_gives_an_adapter_its_blocks_rate():
    model = inject_moe(timm.create_model("vgg11", num_classes=3), None, **SLIM)
    scale = {id(p): g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.5) for p in g["params"]}
    adapter = model.get_submodule("features.17.entity_moe")
    rates = {scale[id(p)] for p in adapter.parameters()}
    assert rates == {scale[id(model.get_submodule("features.16").weight)]}
    assert rates < {scale[id(p)] for p in model.parameters()}


def test_copies_and_a_second_model_have_groups_of_their_own():
    model = inject_moe(timm.create_model("test_resnet", num_classes=3), "act1", **SLIM)
    assert isinstance(model.group_matcher, HostGroups)
    other = injected("resnet18", "act1")
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.group_matcher.model is twin
        twin.late = torch.nn.Linear(2, 2)  # known to the copy alone
        assert "late.weight" in check(twin)
    assert "late.weight" not in check(model)
    check(other)
    assert list(model.state_dict()) == list(copy.deepcopy(model).state_dict())


@pytest.mark.parametrize("arch", ["poolformer_s12", "pit_ti_224"])
def test_without_a_matcher_timms_fallback_puts_an_adapter_behind_its_block_and_before_the_head(arch):
    model = injected(arch, "last")
    assert not hasattr(model, "group_matcher")
    order = [name for name, _ in model.named_parameters()]
    path = next(iter(adapters_of(model)))
    own = [order.index(n) for n in order if n.startswith(f"{path}.")]
    host = [order.index(n) for n in parameters_of_host(model, path)]
    assert max(host) + 1 == min(own)
    scale = {id(p): g["lr_scale"] for g in param_groups_layer_decay(model, layer_decay=0.5) for p in g["params"]}
    rates = [scale[id(p)] for p in adapters_of(model)[path].parameters()]
    heads = [scale[id(p)] for p in model.get_classifier().parameters()]
    assert max(scale[id(model.get_parameter(order[i]))] for i in host) <= min(rates)
    assert max(rates) <= min(heads)
