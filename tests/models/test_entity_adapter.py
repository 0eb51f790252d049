"""What an EntityMoE adapter computes, and that each of its options does something."""

import dataclasses

import pytest
import torch

import moezoo
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.site import Block, Site
from moezoo.models.entity_moe.adapter import EntityAdapter
from moezoo.models.entity_moe.config import EntityAdapterConfig, EntityMoEConfig

SMALL = {"img_size": 32, "num_classes": 3, "expert_dim": 16, "mlp_ratio": 0.5, "dropout": 0.0}


def adapter(layout="NLC", grid=(4, 6), prefix=1, dim=16, **config):
    torch.manual_seed(0)
    site = Site(Block("b", 0, "b", 0), 0, "b", "", None, layout, dim, grid, prefix)
    module = EntityAdapter(site, EntityAdapterConfig(**{"dropout": 0.0, **config}), 4).eval()
    torch.nn.init.normal_(module.ffn.fc2.weight)
    return module


def changed_model(**overrides):
    torch.manual_seed(0)
    model = moezoo.create_model("entity_moe/test_vit2", **{"model_name": "test_vit", **SMALL, **overrides})
    for a in adapters_of(model).values():
        generator = torch.Generator().manual_seed(3)
        a.ffn.fc2.weight.data = torch.randn(a.ffn.fc2.weight.shape, generator=generator)
    return model


@pytest.mark.parametrize("entities", ["tokens", "windows", "slots"])
def test_layouts_agree(entities):
    """The same features, laid out three ways, are changed the same way."""
    tokens = torch.randn(2, 24, 16)
    nlc, nhwc, nchw = (adapter(layout, prefix=0, entities=entities) for layout in ("NLC", "NHWC", "NCHW"))
    want = nlc(tokens)
    image = tokens.view(2, 4, 6, 16)
    torch.testing.assert_close(nhwc(image).view(2, 24, 16), want)
    torch.testing.assert_close(nchw(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(2, 24, 16), want)


@pytest.mark.parametrize("entities", ["tokens", "windows", "slots"])
def test_starts_as_the_identity_and_trains_everything(entities):
    module = adapter(entities=entities, window_size=4, num_slots=3)
    x = torch.randn(2, 25, 16)
    with torch.no_grad():
        module.ffn.fc2.weight.zero_()
    assert torch.equal(module(x), x)
    torch.nn.init.normal_(module.ffn.fc2.weight)
    module.train()(x).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())


def test_window_objects_pool_their_own_tokens():
    """A token changes only what attention and its own window let it: with attention off, other windows stay."""
    module = adapter(entities="windows", window_size=2)
    torch.nn.init.zeros_(module.attn.proj.weight)
    torch.nn.init.zeros_(module.attn.proj.bias)
    x = torch.randn(1, 25, 16)
    y = x.clone()
    y[0, 1] = torch.randn(16)  # the first patch, in the window of rows 0-1 and columns 0-1
    moved = ((module(y) - y) - (module(x) - x)).abs().amax(-1)[0] > 1e-6
    assert moved[0] == 0
    assert moved[1:].view(4, 6).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_windows_follow_the_shape_of_the_map_not_the_number_of_its_tokens():
    """Two rows of eight have as many tokens as the traced four by four, and other neighbours."""
    module = adapter("NCHW", grid=(4, 4), prefix=0, entities="windows", window_size=2)
    torch.nn.init.zeros_(module.attn.proj.weight)
    torch.nn.init.zeros_(module.attn.proj.bias)
    x = torch.randn(1, 16, 2, 8)
    y = x.clone()
    y[0, :, 0, 0] = torch.randn(16)
    moved = ((module(y) - y) - (module(x) - x)).abs().amax(1)[0] > 1e-6
    assert moved.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert module.token_geometry(x.shape) == ((1, 4), 0)


def test_a_record_places_the_tokens_of_wide_maps():
    model = moezoo.create_model("entity_moe/test_resnet", num_classes=3, expert_dim=8, mlp_ratio=0.25).eval()
    with moezoo.record_routing(model) as records:
        model(torch.randn(1, 3, 64, 256))
        model(torch.randn(1, 3, 64, 128))
    assert [r.grid for r in records] == [(2, 8), (2, 4)]


def test_pooling_shrinks_the_quadratic_attention():
    tokens, windows, slots = (
        adapter(grid=(32, 32), prefix=0, entities=e, window_size=8) for e in ("tokens", "windows", "slots")
    )
    assert tokens.entities(torch.zeros(1, 1024, 16), (32, 32))[0].shape == (1, 1024, 16)
    assert windows.entities(torch.zeros(1, 1024, 16), (32, 32))[0].shape == (1, 16, 16)
    assert slots.entities(torch.zeros(1, 1024, 16), (32, 32))[0].shape == (1, 16, 16)
    x = torch.randn(1, 1024, 16)
    cost = {name: moezoo.measure.flops(m, x).executed for name, m in (("t", tokens), ("w", windows), ("s", slots))}
    assert cost["w"] < 0.5 * cost["t"]
    assert cost["s"] < 0.5 * cost["t"]


OPTIONS = {
    "num_experts": 2,
    "num_experts_shared": 1,
    "expert_k": 2,
    "mlp_ratio": 1.0,
    "expert_dim": 8,
    "expert": "glu",
    "activation": "relu",
    "num_heads": 4,
    "entities": "windows",
    "dense": True,
    "capacity_factor": 0.25,
    "backbone_args": {"depth": 2},
    "model_name": "test_vit2",
    "num_classes": 4,
    "in_chans": 1,
    "img_size": 48,
    "global_pool": "avg",
    "inject_layers": "all",
}
TRAINING = {
    "dropout": 0.5,
    "router_noise": 5.0,
    "router_jitter": 0.9,
    "drop_rate": 0.5,
    "drop_path_rate": 0.9,
    "load_balance_weight": 1.0,
    "router_z_weight": 1.0,
    "importance_weight": 1.0,
}
PAIRED = {
    "normalize": ({"expert_k": 2}, False),
    "window_size": ({"entities": "windows"}, 1),
    "num_slots": ({"entities": "slots"}, 3),
}


def test_every_field_is_tried():
    tried = {*OPTIONS, *TRAINING, *PAIRED, "router", "backbone_tag"}
    assert tried == {f.name for f in dataclasses.fields(EntityMoEConfig)}


@pytest.mark.parametrize("field", OPTIONS)
def test_every_option_changes_the_model(field):
    models = [changed_model(), changed_model(**{field: OPTIONS[field]})]
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in models]
    if shapes[0] == shapes[1]:
        models[1].load_state_dict(models[0].state_dict())
        x = torch.randn(2, 3, 32, 32)
        assert not torch.equal(models[0].eval()(x), models[1].eval()(x))


@pytest.mark.parametrize("field", PAIRED)
def test_options_that_need_another_one_change_the_model(field):
    base, value = PAIRED[field]
    models = [changed_model(**base), changed_model(**base, **{field: value})]
    if {k: v.shape for k, v in models[0].state_dict().items()} == {
        k: v.shape for k, v in models[1].state_dict().items()
    }:
        models[1].load_state_dict(models[0].state_dict())
        x = torch.randn(2, 3, 32, 32)
        assert not torch.equal(models[0].eval()(x), models[1].eval()(x))


@pytest.mark.parametrize("field", TRAINING)
def test_options_of_training_change_training_and_not_evaluation(field):
    models = [changed_model(), changed_model(**{field: TRAINING[field]})]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(4, 3, 32, 32)
    results = []
    for model in models:
        torch.manual_seed(7)
        out = model.train()(x)
        results.append((out.detach(), moezoo.aux_loss(model).detach()))
    assert not (torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1]))
    assert torch.equal(models[0].eval()(x), models[1].eval()(x))


def test_a_registered_router_is_used():
    from moezoo.moe.routers import SoftmaxTopKRouter, routers

    if "entity_test_router" not in routers:
        moezoo.register_router("entity_test_router")(type("Other", (SoftmaxTopKRouter,), {}))
    model = changed_model(router="entity_test_router")
    assert type(adapters_of(model)["blocks.5.entity_moe"].moe.router).__name__ == "Other"


def test_train_and_eval_agree_without_noise():
    model = changed_model()
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model.train()(x), model.eval()(x))


def test_freezing_leaves_the_moe_and_the_head():
    model = moezoo.freeze_backbone(changed_model())
    trainable = {k for k, p in model.named_parameters() if p.requires_grad}
    assert trainable == {k for k, _ in model.named_parameters() if "entity_moe" in k or k.startswith("head.")}
    moezoo.freeze_backbone(model, train_head=False)
    assert all("entity_moe" in k for k, p in model.named_parameters() if p.requires_grad)


def test_param_groups_have_a_rate_for_each_role():
    model = changed_model()
    groups = {g["name"]: g for g in moezoo.param_groups(model, lr_backbone=1e-5, lr_moe=1e-4, lr_head=1e-3)}
    assert {n: g["lr"] for n, g in groups.items()} == {"backbone": 1e-5, "moe": 1e-4, "head": 1e-3}
    assert sum(len(g["params"]) for g in groups.values()) == len(list(model.parameters()))
    torch.optim.AdamW(list(groups.values()))
    with pytest.raises(moezoo.errors.ConfigError, match="lr_moe"):
        moezoo.param_groups(model, lr_backbone=1e-5, lr_moe=-1.0, lr_head=1e-3)


def test_nan_input_is_an_error_in_training_only():
    model = changed_model()
    x = torch.full((1, 3, 32, 32), float("nan"))
    with pytest.raises(moezoo.errors.NonFiniteError):
        model.train()(x)
    assert model.eval()(x).isnan().any()
