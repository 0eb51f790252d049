"""Every option does something, what cannot be is refused by name, and the document's words are understood."""

import dataclasses

import pytest
import torch
from attention_routing_toys import TINY, asked, images, same_weights, tiny

import moezoo
from moezoo.errors import ConfigError
from moezoo.models.attention_routing import AttentionRoutingConfig

SHAPES = {
    "img_size": 32,
    "patch_grid_size": 2,
    "in_channels": 3,
    "num_classes": 4,
    "encoder_channels": 16,
    "encoder_layers": 3,
    "attention_hidden": 7,
    "attention_layers": 2,
    "big_hidden_dim": 25,
    "big_layers": 3,
    "small_hidden_dim": 6,
    "small_layers": 2,
    "embed_dim": 8,
    "big_input": "both",
    "small_input": "crop",
    "crop_context": 2,
    "aggregator_dim": 13,
    "head_hidden_dim": 11,
    "compute": "full",
    "dense": True,
}
"""What changes the parameters."""
ANSWERS = {
    "router_mode": "sigmoid_gate",
    "threshold_init": 0.4,
    "aggregator": "mean",
    "budget_target": 0.5,
    "temperature": 0.5,
    "temperature_final": 0.1,
    "dropout": 0.5,
    "budget_weight": 3.0,
    "budget_scope": "sample",
    "budget_anneal": 0.5,
}
"""What changes the answers, the loss or its gradient in training."""
ELSEWHERE = {"fraction", "mean", "std"}


def test_every_field_is_tried():
    assert {*SHAPES, *ANSWERS, *ELSEWHERE} == {field.name for field in dataclasses.fields(AttentionRoutingConfig)}


@pytest.mark.parametrize("field", SHAPES)
def test_every_option_of_shape_changes_the_parameters(field):
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (tiny(), tiny(**{field: SHAPES[field]}))]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize("field", ANSWERS)
def test_every_other_option_changes_a_training_step(field):
    found = []
    for changes in ({}, {field: ANSWERS[field]}):
        model = tiny(**changes)
        if field not in ("aggregator", "threshold_init"):
            same_weights(tiny(), model)
        moezoo.moe.set_progress(model, 0.2)
        torch.manual_seed(0)
        output = asked(model, images())
        (output.logits.square().sum() + moezoo.aux_loss(model)).backward()
        score = model.attention.score.weight.grad
        found.append([output.logits, moezoo.aux_loss(model), score])
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_fraction_is_that_of_the_best_cells_and_of_controls_without_a_target():
    x = images()
    for more in ({"router_mode": "top_fraction"}, {"compute": "random", "budget_target": None}):
        for fraction, count in ((0.5, 8), (0.1, 2), (0.0, 0)):
            mask = asked(tiny(fraction=fraction, **more), x).routing_mask
            assert (mask.sum(1) == count).all()


def test_mean_and_std_are_what_images_are_prepared_with():
    cfg = tiny(mean=(0.1, 0.2), std=(0.3, 0.4)).pretrained_cfg
    assert (cfg["mean"], cfg["std"], cfg["input_size"]) == ((0.1, 0.2), (0.3, 0.4), (2, 16, 16))
    assert tiny().pretrained_cfg["mean"] == (0.5, 0.5)


def test_a_price_per_flop_charges_each_mlp_what_it_costs():
    from moezoo.models.attention_routing.costs import big_macs, small_macs

    model = tiny(budget_target=None, budget_weight=2.0)
    ratio = asked(model, images()).router_stats["routing_ratio"].item()
    cheap = small_macs(model.config) / big_macs(model.config)
    assert moezoo.aux_loss(model).item() == pytest.approx(2 * (ratio + (1 - ratio) * cheap), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_grid_size": 3}, "patch_grid_size=3 .* divide the image's height .*Allowed: 1, 2, 4, 8, 16"),
        ({"img_size": (16, 18)}, "divide the image's width"),
        ({"patch_grid_size": 0}, "patch_grid_size=0"),
        ({"threshold_init": 0.0}, "threshold_init=0.0 .*greater than 0"),
        ({"threshold_init": 1.0}, "threshold_init=1.0 .*less than 1"),
        ({"temperature": 0.0}, "temperature=0.0"),
        ({"router_mode": "learnable_treshold"}, "Did you mean: learnable_threshold"),
        ({"aggregator": "weighted_men"}, "aggregator='weighted_men' .*weighted_mean.*Allowed: attention_pool, concat"),
        ({"compute": "fool"}, "compute='fool'.*full"),
        ({"budget_target": 1.5}, "budget_target=1.5 .*less than or equal to 1"),
        ({"budget_target": -0.1}, "budget_target=-0.1 .*greater than or equal to 0"),
        ({"fraction": 2.0}, "fraction=2.0"),
        ({"budget_weight": -1.0}, "budget_weight"),
        ({"budget_scope": "image"}, "budget_scope='image'.*'batch' or 'sample'"),
        ({"dense": True, "compute": "full"}, "dense=True with compute='full'"),
        ({"std": (0.0,)}, "standard deviation is above 0"),
        ({"treshold_init": 0.4}, "unknown field 'treshold_init'. Did you mean: threshold_init"),
        ({"embed_dim": "8"}, "embed_dim='8'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        moezoo.model_config("attention_routing/digits", **{**TINY, **changes})


def test_the_documents_paths_and_common_words_are_aliases():
    config = moezoo.model_config(
        "attention_routing/cifar10",
        **{
            "dataset.input_size": 64,
            "dataset.patch_grid_size": 8,
            "model.router.mode": "sigmoid_gate",
            "router.threshold_init": 0.3,
            "model.router.temperature": 0.7,
            "in_chans": 1,
            "drop_rate": 0.2,
        },
    )
    assert (config.img_size, config.patch_grid_size, config.router_mode) == (64, 8, "sigmoid_gate")
    assert (config.threshold_init, config.temperature, config.in_channels, config.dropout) == (0.3, 0.7, 1, 0.2)
    assert (config.in_chans, config.drop_rate, config.grid, config.cell) == (1, 0.2, (8, 8), (8, 8))
    assert config.per_channel("mean") == pytest.approx((0.4734,), abs=1e-4)
    with pytest.raises(ConfigError, match="'img_size' is given twice"):
        moezoo.model_config("attention_routing/cifar10", img_size=32, input_size=32)


def test_presets_and_their_controls():
    names = moezoo.list_models("attention_routing/*", exclude_filters="*vit*")
    bare = {f"attention_routing/{n}" for n in ("cifar10", "cifar100", "digits", "cluttered_digits")}
    controls = ("full_compute", "cheap_compute", "no_routing", "random_routing", "fixed_center", "dense")
    assert set(names) == bare | {f"{name}.{control}" for name in bare for control in controls}
    config = moezoo.model_config("attention_routing/cifar10")
    assert (config.grid, config.crop_dim, config.big_hidden_dim, config.big_layers) == ((4, 4), 192, 512, 3)
    assert (config.small_hidden_dim, config.small_layers, config.embed_dim) == (64, 1, 128)
    assert (config.router_mode, config.threshold_init, config.temperature) == ("learnable_threshold", 0.5, 1.0)
    assert moezoo.model_config("attention_routing/cifar100").num_classes == 100
