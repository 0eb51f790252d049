"""Named models whose experts are made from a timm backbone's MLPs."""

import logging
import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

import moezoo
from moezoo.backbones.upcycle import measure_gap
from moezoo.backbones.upcycle_twin import WideMLP, widen
from moezoo.errors import ConfigError, InjectionError, InputError, WeightsMismatch
from moezoo.moe import MoELayer

TINY = {"num_classes": 5, "img_size": 32}


def images(batch=2):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def backbone(arch="test_vit", **kwargs):
    torch.manual_seed(3)
    model = timm.create_model(arch, **TINY, **kwargs).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)  # nothing that is zero hides a mistake
    return model


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A plain backbone and the file of its weights."""
    model, path = backbone(), tmp_path_factory.mktemp("dense") / "dense.safetensors"
    save_file(model.state_dict(), path)
    return model, path


def test_any_vit_has_a_name_and_the_words_place_its_experts():
    for name, blocks in {
        "vmoe/test_vit": [3, 5],
        "soft_moe/test_vit": [3, 4, 5],
        "mobile_vmoe/test_vit": [4, 5],
    }.items():
        with torch.device("meta"):
            model = moezoo.create_model(name)
        assert [i for i, b in enumerate(model.blocks) if hasattr(b.mlp, "moe")] == blocks, name
    assert moezoo.model_config("vmoe/vit_small").model_name == "vit_small_patch16_224"
    assert moezoo.model_config("vmoe_vit_small.last2") == moezoo.model_config("vmoe/vit_small")
    assert moezoo.is_model_pretrained("soft_moe/vit_base.last_half")
    assert moezoo.get_pretrained_cfg("swin_moe/small.e8").architecture == "swin_small_patch4_window7_224"


def test_layers_are_what_the_configuration_says():
    model = moezoo.create_model(
        "vmoe/test_vit",
        **TINY,
        num_experts=4,
        num_selected_experts=3,
        expert_dropout=0.3,
        capacity_factor=2.0,
        eval_capacity_factor=4.0,
        capacity_rule="vmoe",
        router_z_weight=0.1,
        init="noise",
    )
    layer = next(m for m in model.modules() if isinstance(m, MoELayer))
    router = layer.router
    assert (layer.num_experts, layer.top_k, router.normalize) == (4, 3, True)
    assert (router.capacity_factor, router.eval_capacity_factor, router.capacity_rule) == (2.0, 4.0, "vmoe")
    assert router.noise_std == 0.25
    assert layer.aux.weights == {"importance": 0.005, "load": 0.005, "router_z": 0.1}
    assert layer.aux.reduction == "sum"
    assert layer.experts.dropout == 0.3
    assert not torch.equal(layer.experts.w_in[0], layer.experts.w_in[1])
    moezoo.create_model("vmoe/test_vit", **TINY, router="soft", top_k=1)  # whose weights sum to one in any case
    quiet = moezoo.model_config("vmoe/test_vit", router_args={"sigma": 0.0})
    assert "load" not in quiet.aux_weights
    assert "load" not in moezoo.model_config("vmoe/test_vit", router="softmax_topk").aux_weights


def test_statistics_come_on_request():
    model = moezoo.create_model("vmoe/test_vit.last2", **TINY, num_experts=4).eval()
    got = model(images(), return_stats=True)
    with moezoo.record_routing(model) as records:
        logits = model(images(), return_stats=False)
    assert torch.equal(got["logits"], logits)
    assert got["router_stats"]["expert_rows"].tolist() == [r.routing.expert_rows() for r in records]
    assert got["router_stats"]["dropped"].tolist() == [0.0, 0.0]
    layer = next(m for m in model.modules() if isinstance(m, MoELayer))
    with pytest.raises(TypeError, match="wrong"):
        model(images(), return_stats=True, wrong=1)
    assert not layer.router._forward_hooks  # nothing stays open
    assert torch.equal(pickle.loads(pickle.dumps(model))(images()), logits)
    twin = moezoo.create_model("vmoe/test_vit.dense", **TINY)
    assert twin(images(), return_stats=True)["router_stats"] == {}


def test_soft_slots_are_as_many_as_tokens_and_its_twin_is_as_dear():
    layers = {}
    for experts in (4, 16):
        kwargs = {"backbone_args": {"patch_size": 4}, "moe_layers": "last"}
        model = moezoo.create_model("soft_moe/test_vit", **TINY, num_experts=experts, **kwargs)
        layers[experts] = next(m for m in model.modules() if isinstance(m, MoELayer))
    assert {experts: layer.router.num_slots for experts, layer in layers.items()} == {4: 16, 16: 4}  # 65 tokens
    kwargs = {"backbone_args": {"patch_size": 4}, "num_slots": 16, "moe_layers": "last"}
    twin = moezoo.create_model("soft_moe/test_vit", **TINY, dense=True, **kwargs)
    assert twin.blocks[5].mlp.top_k == 2  # 8 experts, 128 slots
    with pytest.raises(ConfigError, match="num_slots is needed for 'test_convnext'"):
        moezoo.create_model("soft_moe/test_convnext")


@pytest.mark.parametrize("name", ["vmoe/test_vit.last2", "vmoe/test_vit.dense"])
def test_a_dense_checkpoint_becomes_a_model_that_computes_the_same(stored, name, caplog):
    dense, path = stored
    with caplog.at_level(logging.INFO, "moezoo"):
        model = moezoo.create_model(name, checkpoint_path=path, **TINY).eval()
    assert measure_gap(model, dense, images()) < 1e-5
    assert model.weights_origin == f"backbone-checkpoint:{path}"
    assert "whose MLPs are in the experts" in caplog.text
    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, (MoELayer, WideMLP))).apply(
            lambda m: [p.mul_(1.1) for p in m.parameters(recurse=False)]
        )
    assert measure_gap(model, dense, images()) > 1e-3


def test_a_dense_checkpoint_of_another_model_is_refused_by_name(stored):
    _, path = stored
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.mlp\.fc1\.weight: file \(192, 64\) vs model \(128, 64\)"):
        moezoo.create_model("vmoe/test_vit", checkpoint_path=path, **TINY, backbone_args={"mlp_ratio": 2.0})
    with pytest.raises(WeightsMismatch, match=r"the model\. unexpected in the file \(2\): head\.bias, head"):
        moezoo.create_model("vmoe/test_vit", checkpoint_path=path, **{**TINY, "num_classes": 0})


@pytest.mark.parametrize("kwargs", [{}, {"init": "partition", "partition": "contiguous", "top_k": 2, "num_experts": 4}])
@pytest.mark.parametrize("gated", [False, True])
def test_the_twin_starts_as_its_experts_with_equal_weights(gated, kwargs):
    """Of a GLU with one input layer too; of parts, K of which make a narrower MLP."""
    more = {"mlp_layer": timm.layers.SwiGLUPacked} if gated else {}
    torch.manual_seed(0)
    dense = timm.create_model("test_vit", **TINY, **more)
    options = {"num_experts": 4, "top_k": 2, **kwargs}
    init = moezoo.moe.upcycling.ExpertInit(options.get("init", "copy"), None, options.get("partition"))
    twin = widen(dense, "last", num_experts=4, top_k=2, init=init)
    torch.manual_seed(0)
    plain = timm.create_model("test_vit", **TINY, **more)
    moe = moezoo.upcycle(plain, "last", **options).eval()
    layer = moe.blocks[-1].mlp.moe
    x = torch.randn(7, layer.dim)
    want = sum(_expert(layer.experts, e, x, gated) for e in (0, 1)) / 2
    torch.testing.assert_close(twin.blocks[-1].mlp.eval()(x[None])[0].double(), want, rtol=1e-5, atol=1e-6)
    assert twin.blocks[-1].mlp.mlp.hidden_dim == 2 * layer.experts.hidden_dim


def _expert(experts, e, x, gated):
    """One expert in double precision."""
    w_in, b_in, w_out, b_out = (p[e].detach().double() for p in experts.parameters())
    h = x.double() @ w_in.T + b_in
    if gated:
        gate, up = h.chunk(2, dim=-1)
        h = torch.nn.functional.gelu(gate) * up  # timm hands its GELU to the GLU
    else:
        h = torch.nn.functional.gelu(h)
    return h @ w_out.T + b_out


def test_stored_models_come_back_and_upcycled_by_hand_are_still_refused(tmp_path):
    kwargs = {"num_experts": 3, "backbone_args": {"depth": 2}, "moe_layers": "last"}
    model = moezoo.create_model("vmoe/test_vit.every2", **TINY, **kwargs).eval()
    moezoo.save_pretrained(model, tmp_path / "stored")
    again = moezoo.create_model(f"local-dir:{tmp_path / 'stored'}", pretrained=True, num_classes=3).eval()
    features = again.forward_features(images())
    assert torch.equal(features, model.forward_features(images()))
    assert again(images()).shape == (2, 3)
    assert again.moezoo_name == "vmoe/test_vit.every2"
    plain = moezoo.create_model("entity_moe/test_vit", img_size=32, backbone_args={"depth": 2})
    with pytest.raises(InputError, match=r"an upcycled model.*vmoe/<timm architecture>"):
        moezoo.save_pretrained(moezoo.upcycle(plain, "last", num_experts=2), tmp_path / "no")
    with pytest.raises(InjectionError, match="upcycled already"):
        moezoo.upcycle(model, num_experts=2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top_k": 9}, r"top_k=9.*num_experts=8"),
        ({"top_k": 1, "normalize": True}, "normalize=True with top_k=1"),
        ({"capacity_rule": "tutel"}, "capacity_rule='tutel' does nothing without a capacity_factor"),
        ({"eval_capacity_factor": 2.0}, "eval_capacity_factor=2.0 does nothing without"),
        ({"init_noise": 0.1}, "init_noise=0.1 is not allowed with init='copy'"),
        ({"init": "noise", "partition": "random"}, "partition='random' is not allowed with init='noise'"),
        ({"num_expert": 3}, "Did you mean: num_experts"),
        ({"init": "copi"}, "Did you mean: copy"),
    ],
)
def test_mistakes_are_told_by_field(changes, words):
    with pytest.raises(ConfigError, match=words):
        moezoo.model_config("vmoe/test_vit", **changes)


def test_what_is_a_field_is_no_argument_of_the_router_too():
    for argument, field in (("num_slots", "num_slots"), ("noise_std", "router_noise")):
        with pytest.raises(ConfigError, match=f"router_args: {argument!r} is the field {field}"):
            moezoo.model_config("soft_moe/test_vit", router_args={argument: 1})
