"""What upcycling refuses: it says why, and leaves the model as it was."""

import copy

import pytest
import timm
import torch
from torch import nn

import moezoo
from moezoo.backbones.upcycle import measure_gap
from moezoo.errors import ConfigError, InjectionError, MoeZooError


def refuse(model, match, error=InjectionError, **arguments):
    """Expect an error, and the model untouched."""
    before, modules = copy.deepcopy(model.state_dict()), dict(model.named_modules())
    with pytest.raises(error, match=match):
        moezoo.upcycle(model, **{"num_experts": 4, **arguments})
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(before[k], v) for k, v in after.items())
    assert dict(model.named_modules()) == modules
    assert not hasattr(model, "upcycle_report")


def test_a_backbone_without_mlps_is_told_of_inject_moe():
    refuse(timm.create_model("resnet18"), r"no MLP to upcycle in layer3\.0.*BasicBlock.*inject_moe")


def test_channel_attention_is_no_mlp():
    refuse(timm.create_model("legacy_seresnet18"), "no MLP to upcycle", where="all")


def test_a_norm_inside_is_named():
    model = timm.create_model("convnextv2_atto", depths=(1, 1, 1, 1))
    refuse(model, r"stages\.3\.blocks\.0\.mlp: it holds GlobalResponseNorm", where="last")
    refuse(timm.create_model("test_vit", img_size=32, scale_mlp_norm=True), "it holds LayerNorm")


def test_an_activation_that_experts_lack_is_refused_with_the_list():
    model = timm.create_model("test_vit", img_size=32, act_layer=nn.Mish)
    refuse(model, "activation is none of gelu, gelu_tanh, quick_gelu, relu, silu")


def test_upcycling_twice_is_an_error(tiny_vit):
    moezoo.upcycle(tiny_vit, "last", num_experts=2)
    report, keys = tiny_vit.upcycle_report, list(tiny_vit.state_dict())
    with pytest.raises(InjectionError, match=r"upcycled already \('blocks.5.mlp'\)"):
        moezoo.upcycle(tiny_vit, 0, num_experts=2)
    assert tiny_vit.upcycle_report is report
    assert list(tiny_vit.state_dict()) == keys


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"num_experts": 0}, "num_experts=0"),
        ({"top_k": 5}, "top_k=5"),
        ({"init": "copies"}, "init='copies'.*copy"),
        ({"noise_std": 0.1}, "noise_std=0.1 is not allowed with init='copy'"),
        ({"init": "noise", "noise_std": -1.0}, "noise_std=-1.0"),
        ({"partition": "random"}, "partition='random' is not allowed with init='copy'"),
        ({"init": "partition", "partition": "clusters"}, "partition='clusters'"),
        ({"init": "partition", "num_experts": 7}, "num_experts=7.*must divide the MLP's 192 hidden units"),
        ({"numexperts": 3}, "numexperts"),
        ({"router": "softmax_topkk"}, "softmax_topk"),
        ({"router_args": {"nois_std": 1.0}}, "noise_std"),
        ({"capacity_factor": -1.0}, "capacity_factor"),
    ],
)
def test_bad_arguments_are_named(tiny_vit, arguments, match):
    refuse(tiny_vit, match, error=MoeZooError if "router" in arguments else ConfigError, **arguments)


def test_places_that_do_not_exist_are_named(tiny_vit):
    refuse(tiny_vit, "out of range", where=9)
    refuse(tiny_vit, "matches no block", where="blocks.9.mlp")
    refuse(tiny_vit, r"no MLP to upcycle in blocks\.3\.attn", where="blocks.3.attn")


def test_weights_shared_with_another_layer_are_refused(tiny_vit):
    tiny_vit.blocks[4].mlp.fc1.weight = tiny_vit.blocks[5].mlp.fc1.weight
    refuse(tiny_vit, r"blocks\.5\.mlp\.fc1\.weight is shared", where="last")


def test_an_mlp_that_runs_twice_is_refused(tiny_vit):
    tiny_vit.blocks[4].mlp = tiny_vit.blocks[5].mlp
    refuse(tiny_vit, "runs 2 times", where=4)


def test_layers_with_hooks_are_refused(tiny_vit):
    tiny_vit.blocks[5].mlp.fc2.register_forward_hook(keep)
    refuse(tiny_vit, "forward hooks", where="last")


def test_a_hook_on_the_whole_mlp_is_kept(tiny_vit):
    seen = []
    tiny_vit.blocks[5].mlp.register_forward_hook(lambda *_: seen.append(1))
    reference, x = copy.deepcopy(tiny_vit), torch.randn(2, 3, 32, 32)
    moezoo.upcycle(tiny_vit, "last", num_experts=2, top_k=2)
    seen.clear()
    assert measure_gap(tiny_vit, reference, x) < 1e-5
    assert seen
    tiny_vit.load_state_dict(reference.state_dict())


def keep(module, args, output):
    return output


class Reaching(nn.Module):
    """A block that uses its MLP's layers without calling it, once it has run."""

    def __init__(self, block):
        super().__init__()
        self.norm, self.mlp = block.norm2, block.mlp

    def forward(self, x, **_):
        return x + self.mlp(self.norm(x)) + self.mlp.fc1.bias.sum()


def test_a_model_that_reaches_into_its_mlp_is_put_back(tiny_vit):
    tiny_vit.blocks[5] = Reaching(tiny_vit.blocks[5])
    refuse(tiny_vit, "fc1", where="last")


def test_no_model_and_compiled_models_are_refused(tiny_vit):
    with pytest.raises(InjectionError, match=r"torch\.nn\.Module"):
        moezoo.upcycle("test_vit", num_experts=2)
    with pytest.raises(InjectionError, match="before it was compiled"):
        moezoo.upcycle(torch.compile(tiny_vit), num_experts=2)


def test_adapters_are_not_taken_for_mlps(tiny_vit):
    moezoo.inject_moe(tiny_vit, "last", num_experts=2)
    keys = [key for key in tiny_vit.state_dict() if ".entity_moe." in key]
    moezoo.upcycle(tiny_vit, "last", num_experts=2)
    assert [s.name for s in tiny_vit.upcycle_report.sites] == ["blocks.5.mlp"]
    assert [key for key in tiny_vit.state_dict() if ".entity_moe." in key] == keys
