"""V-MoE and Soft MoE as models: positions, sizes of images, what they answer, what is stored of them."""

import numpy as np
import pytest
import torch
from moe_vit_toys import NAMES, TINY, images, tiny
from scipy.ndimage import zoom

import moezoo
from moezoo.errors import InputError
from moezoo.models.moe_vit.positions import resize_positions, sincos2d
from moezoo.models.moe_vit.tokens import TokenLayout
from moezoo.moe import prune_experts


def test_positions_are_sines_and_cosines_of_columns_then_rows():
    D, temperature, grid = 16, 50.0, (3, 5)
    want = np.zeros((*grid, D))
    for k in range(D // 4):
        omega = temperature ** -(k / (D // 4 - 1))
        for row in range(grid[0]):
            for column in range(grid[1]):
                at = want[row, column]
                at[k], at[k + D // 4] = np.sin(column * omega), np.cos(column * omega)
                at[k + D // 2], at[k + 3 * D // 4] = np.sin(row * omega), np.cos(row * omega)
    found = sincos2d(grid, D, temperature, torch.zeros((), dtype=torch.float64))
    np.testing.assert_allclose(found[0].numpy(), want.reshape(-1, D), atol=1e-12)


def test_learned_positions_are_resized_as_by_zooming_an_image():
    table = torch.randn(1, 1 + 7 * 5, 6, dtype=torch.float64)
    found = resize_positions(table, (7, 5), (12, 4), 1)
    want = zoom(table[0, 1:].view(7, 5, 6).numpy(), (12 / 7, 4 / 5, 1), order=1)
    assert torch.equal(found[:, :1], table[:, :1])
    np.testing.assert_allclose(found[0, 1:].view(12, 4, 6).numpy(), want, atol=1e-12)
    assert resize_positions(table, (7, 5), (5, 7), 1) is table


def test_tokens_of_another_image_size_lie_on_the_grid_nearest_in_shape():
    layout = TokenLayout((4, 4), 1)
    assert layout.of(17) == ((4, 4), 1)
    assert layout.of(37) == ((6, 6), 1)
    assert layout.of(13) == ((3, 4), 1)
    assert TokenLayout((2, 4), 0).of(18) == ((3, 6), 0)
    assert layout.of(1) == (None, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("classifier", ["token", "gap", "map"])
def test_computed_positions_take_images_of_any_size(name, classifier):
    model = tiny(name, position="sincos2d", classifier=classifier, qk_norm=True, representation_size=8).eval()
    small, large = images(model, 2), torch.randn(2, 2, 24, 32)
    assert model(small).shape == model(large).shape == (2, 3)
    with moezoo.record_routing(model) as records:
        model(large)
    assert {record.grid for record in records} == {(6, 8)}
    assert {record.prefix_tokens for record in records} == {int(classifier == "token")}
    features = moezoo.create_model(name, **TINY, position="sincos2d", classifier=classifier, features_only=True)
    assert features(large)[-1].shape == (2, 16, 6, 8)


def test_a_learned_table_is_for_one_size_until_it_is_resized(tmp_path):
    model = tiny("vmoe/digits", group_images=2, representation_size=8).eval()
    with pytest.raises(InputError, match=r"these have 36.*img_size="):
        model(torch.randn(1, 2, 24, 24))
    moezoo.save_pretrained(model, tmp_path / "small")
    model.set_input_size((24, 32))
    x = torch.randn(3, 2, 24, 32)
    answer = model(x)
    assert {block.mlp.router.group_size for block in model.blocks if hasattr(block.mlp, "router")} == {2 * 49}
    moezoo.save_pretrained(model, tmp_path / "large")
    again = moezoo.create_model(f"local-dir:{tmp_path / 'large'}", pretrained=True).eval()
    assert again.moezoo_config.img_size == (24, 32)
    assert torch.equal(again(x), answer)
    grown = moezoo.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True, img_size=(24, 32)).eval()
    assert torch.equal(grown(x), answer)


def test_slots_stay_when_images_grow():
    model = tiny("soft_moe/digits", num_slots=None, capacity_factor=0.5)
    assert model.config.num_slots == 2
    model.set_input_size((32, 32))
    assert model.eval()(torch.randn(1, 2, 32, 32)).shape == (1, 3)


def test_statistics_say_who_computed_what():
    model = tiny("vmoe/digits", capacity_factor=0.5, eval_capacity_factor=0.5, capacity_multiple_of=1).eval()
    x = images(model)
    with moezoo.record_routing(model) as records:
        output = model(x, return_stats=True)
    assert torch.equal(output["logits"], model(x))
    rows, dropped, unserved = (output.router_stats[key] for key in ("expert_rows", "dropped", "unserved"))
    for i, record in enumerate(records):
        routing = record.routing
        kept = routing.expert_index[~routing.dropped]
        assert rows[i].tolist() == kept.bincount(minlength=4).tolist()
        assert dropped[i] == pytest.approx(routing.dropped.float().mean().item())
        alive = routing.token_index[~routing.dropped].unique()
        assert unserved[i] == pytest.approx(1 - len(alive) / routing.num_tokens)
    assert dropped.min() > 0
    soft = tiny("soft_moe/digits", num_slots=3)
    stats = soft(images(soft, 2), return_stats=True).router_stats
    assert (stats["expert_rows"] == 2 * 3).all()
    assert (stats["unserved"] == 0).all()
    assert not tiny("vmoe/digits", dense=True)(x, return_stats=True).router_stats


def test_losses_are_summed_over_layers_and_there_is_no_load_without_noise():
    one, two = (tiny("vmoe/digits", moe_layers=layers) for layers in ((1,), (1, 3)))
    for model in (one, two):
        model(images(model))
    assert two.blocks[1].mlp.aux.weights == {"importance": 0.005, "load": 0.005}
    assert two.blocks[1].mlp.aux.reduction == "sum"
    assert moezoo.aux_loss(two) > moezoo.aux_loss(one)
    quiet = tiny("vmoe/digits", noise_std=0.0, load_balance_weight=0.1)
    assert quiet.blocks[1].mlp.aux.weights == {"importance": 0.005, "load_balancing": 0.1}


@pytest.mark.parametrize("name", NAMES)
def test_pruned_experts_are_stored(name, tmp_path):
    model = tiny(name).eval()
    x = images(model)
    prune_experts(model, keep=3, data=x)
    moezoo.save_pretrained(model, tmp_path)
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(again(x), model(x))
    assert again.moezoo_config == moezoo.model_config(name, **{**TINY, "num_experts": 3})


def test_a_new_head_stands_on_the_layer_with_tanh():
    model = tiny("vmoe/digits", representation_size=8).eval()
    x = images(model)
    model.reset_classifier(7)
    assert model(x).shape == (4, 7)
    assert model.head.in_features == model.pre_logits.out_features == model.head_hidden_size == 8
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    assert torch.equal(model.head(features), model(x))
    assert features.abs().max() < 1
    groups = moezoo.param_groups(model, lr_backbone=1e-4, lr_moe=1e-3, lr_head=1e-2)
    assert [group["name"] for group in groups] == ["backbone", "moe", "head"]
    assert sum(p.numel() for p in groups[1]["params"]) == sum(
        p.numel() for i in (1, 3) for p in model.blocks[i].mlp.parameters()
    )
