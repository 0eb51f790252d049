"""Configurations of V-MoE and Soft MoE: words, places, widths, and what every option changes."""

import pytest
import torch
from moe_vit_toys import NAMES, TINY, images, tiny

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer

SHAPES = {
    "img_size": 32,
    "patch_size": 8,
    "in_channels": 3,
    "num_classes": 5,
    "hidden_size": 32,
    "num_layers": 3,
    "num_heads": 4,
    "mlp_dim": 32,
    "classifier": "map",
    "representation_size": 8,
    "position": "none",
    "moe_layers": (0, 2),
    "num_experts": 3,
    "expert_dim": 8,
    "dense": True,
}
"""What changes the shapes of weights, or (heads) how they are read."""
COMMON = {
    "position_temperature": 50.0,
    "qk_norm": True,
    "dispatch_dtype": "bfloat16",
    "dropout": 0.5,
    "attention_dropout": 0.5,
    "expert_dropout": 0.5,
    "drop_path_rate": 0.9,
}
VMOE = {
    "group_size": 5,
    "router": "expert_choice",
    "top_k": 1,
    "noise_std": 5.0,
    "batch_priority": True,
    "capacity_factor": 0.3,
    "capacity_rounding": "round",
    "capacity_multiple_of": 16,
    "capacity": 2,
    "group_images": 1,
    "importance_weight": 1.0,
    "load_weight": 1.0,
    "load_balance_weight": 1.0,
}
SOFT = {"group_size": 8, "num_slots": 3, "capacity_factor": 3.0, "router_noise": 5.0}
CASES = [
    *((NAMES[0], field, value) for field, value in {**SHAPES, **COMMON, **VMOE}.items()),
    *((NAMES[1], field, value) for field, value in {**SHAPES, **SOFT}.items()),
]


def base_of(field):
    """What makes an option count: drops, and a rounding that shows in them."""
    if field in ("capacity_rounding", "capacity_multiple_of"):
        return {"capacity_factor": 0.42, "capacity_multiple_of": 1}
    if field in ("group_size", "group_images", "batch_priority"):
        return {"capacity_factor": 0.3}
    if field == "router":
        return {"group_images": 1}
    if field == "position_temperature":
        return {"position": "sincos2d"}
    return {"num_slots": None} if field == "capacity_factor" else {}


@pytest.mark.parametrize(("name", "field", "value"), CASES)
def test_every_option_changes_a_training_step(name, field, value):
    base = {key: setting for key, setting in base_of(field).items() if name == NAMES[0] or key == "num_slots"}
    base = base if name != NAMES[0] or field != "capacity_factor" else {}
    found = []
    for changes in ({}, {field: value}):
        model = tiny(name, **{**base, **changes})
        shapes = {key: p.shape for key, p in model.state_dict().items()}
        torch.manual_seed(2)
        output = model(images(model))
        (output.square().sum() + moezoo.aux_loss(model)).backward()
        found.append((shapes, [output, moezoo.aux_loss(model), model.blocks[0].norm1.weight.grad]))
    (shapes_a, a), (shapes_b, b) = found
    assert shapes_a != shapes_b or any(x.shape != y.shape or not torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_room_in_evaluation_is_its_own():
    model = tiny("vmoe/digits", capacity_factor=0.3, eval_capacity_factor=2.0)
    x = images(model)
    assert model(x, return_stats=True).router_stats["dropped"].min() > 0.3
    assert (model.eval()(x, return_stats=True).router_stats["dropped"] == 0).all()


def test_mean_and_std_are_what_images_are_prepared_with():
    for name in NAMES:
        cfg = tiny(name, mean=(0.1, 0.2), std=(0.3, 0.4)).pretrained_cfg
        assert (cfg["mean"], cfg["std"], cfg["input_size"]) == ((0.1, 0.2), (0.3, 0.4), (2, 16, 16))
        assert tiny(name).pretrained_cfg["mean"] == (0.5, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "patch_size=3 .* divide the image's height .*Allowed: 1, 2, 4, 8, 16"),
        ({"num_heads": 3}, "num_heads=3 .*hidden_size=16"),
        ({"hidden_size": 18, "position": "sincos2d"}, "sincos2d.*hidden_size=18"),
        ({"moe_layers": "lst2"}, "moe_layers='lst2'.*Did you mean: last2.*last_half"),
        ({"moe_layers": "last3"}, "'last3' is not possible"),
        ({"moe_layers": (1, 4)}, r"moe_layers=\[1, 4\].*from 0 to 3"),
        ({"moe_layers": (1, 1)}, "distinct"),
        ({"top_k": 5}, "top_k=5 .*num_experts=4"),
        ({"router": "expert_choice", "capacity_factor": None}, "capacity_factor=None"),
        ({"classifier": "mean"}, "classifier='mean'.*gap"),
        ({"std": (0.0,)}, "standard deviation is above 0"),
        ({"num_expert": 4}, "Did you mean: num_experts"),
        ({"num_experts": "4"}, "num_experts='4'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        moezoo.model_config("vmoe/digits", **{**TINY, **changes})


def test_too_little_room_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"capacity_factor=0.01 .*4 experts would have no slot for 16 tokens"):
        moezoo.model_config("soft_moe/digits", **TINY, num_slots=None, capacity_factor=0.01)
    with pytest.raises(ConfigError, match=r"capacity_factor=0.001 .*at least 1"):
        tiny("vmoe/digits", capacity_factor=0.001, capacity_rounding="round")


def test_common_words_are_aliases():
    words = {"embed_dim": 24, "depth": 2, "global_pool": "avg", "num_selected_experts": 1, "drop_rate": 0.1}
    config = moezoo.model_config("vmoe/b16", **words, in_chans=1)
    assert (config.hidden_size, config.num_layers, config.classifier, config.top_k) == (24, 2, "gap", 1)
    assert (config.dropout, config.in_channels, config.global_pool, config.embed_dim) == (0.1, 1, "avg", 24)
    assert moezoo.model_config("vmoe/b16", global_pool="avg") == moezoo.model_config("vmoe/b16", classifier="gap")


def test_presets_have_the_papers_places_and_sizes():
    config = moezoo.model_config("vmoe/s32")
    assert config == moezoo.model_config("vmoe/s32.every2")
    assert config.placement == (1, 3, 5, 7)
    assert moezoo.model_config("vmoe/s32.last2").placement == (5, 7)
    assert moezoo.model_config("vmoe/h14").placement == (23, 25, 27, 29, 31)
    assert moezoo.model_config("vmoe/b16.every2").placement == (1, 3, 5, 7, 9, 11)
    assert (config.num_experts, config.top_k, config.noise_std, config.capacity_factor) == (32, 2, 1.0, 1.05)
    assert config.tokens_per_group == 8 * 50
    choice = moezoo.model_config("vmoe/b16.expert_choice")
    assert (choice.router, choice.group_images, choice.chosen * 197) == ("expert_choice", 1, 192)
    soft = {name: moezoo.model_config(f"soft_moe/{name}") for name in ("s16", "s14", "b16", "l16", "h14")}
    assert [c.num_experts for c in soft.values()] == [128, 256, 128, 128, 256]
    assert [c.placement for c in soft.values()] == [
        *(tuple(range(n // 2, n)) for n in (12, 12, 12, 24)),
        tuple(range(16, 32)),
    ]
    assert all((c.slots, c.qk_norm, c.classifier) == (1, True, "gap") for c in soft.values())


@pytest.mark.parametrize("name", [*NAMES, "vmoe/digits.expert_choice"])
def test_the_dense_twin_costs_an_image_the_same(name):
    options = {**TINY, "hidden_size": 32, "mlp_dim": 64}
    moe, twin = (moezoo.create_model(name, **options, dense=dense) for dense in (False, True))
    moe.eval()
    x = images(moe, 2)
    cost, other = moezoo.measure.flops(moe, x), moezoo.measure.flops(twin, x)
    assert cost.executed == cost.analytic
    assert cost.executed == pytest.approx(other.executed, rel=1e-3)
    assert not any(isinstance(module, MoELayer) for module in twin.modules())


def test_experts_that_choose_within_groups_need_whole_groups():
    model = tiny("vmoe/digits.expert_choice", group_images=2)
    assert model(images(model, 4)).shape == (4, 3)
    with pytest.raises(InputError, match="34"):
        model(images(model, 3))
