"""What surgery makes of a model's experts goes into the file, or is refused there."""

import json

import pytest
import torch

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.moe import add_experts, merge_experts, prune_experts
from moezoo.moe.layer import MoELayer

VIT = {
    "img_size": 32,
    "num_classes": 5,
    "backbone_args": {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2},
    "expert_dim": 8,
    "mlp_ratio": 0.25,
    "num_experts": 4,
}


def build(**kwargs):
    model = moezoo.create_model("entity_moe/vit_tiny.all", **{**VIT, **kwargs}).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32)


def back(model, folder):
    moezoo.save_pretrained(model, folder)
    return moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()


def prune(model, images):
    prune_experts(model, keep=3, data=images)


def merge(model, images):
    merge_experts(model, num_experts=3, data=images)


def add(model, images):
    add_experts(model, num_new=2, data=images)


@pytest.mark.parametrize("operate", [prune, merge, add])
@pytest.mark.parametrize("counts", [4, (4, 4, 4), {0: 4, 1: 4, 2: 4}])
def test_one_new_number_of_experts_is_saved(operate, counts, tmp_path, images):
    model = build(num_experts=counts)
    operate(model, images)
    again = back(model, tmp_path)
    assert torch.equal(again(images), model(images))
    assert again.moezoo_config.num_experts == (6 if operate is add else 3)


def test_who_reads_which_source_is_saved(tmp_path):
    model = moezoo.create_model("multiscale_moe/synthetic", feat_dim=8, hidden_dim=8).eval()
    images = torch.randn(2, 3, 3, 128, 64)
    before = model(images)
    prune_experts(model, keep=2, data=images, by="weight")
    assert not torch.allclose(model(images), before)
    again = back(model, tmp_path)
    torch.testing.assert_close(again(images), model(images))
    assert again.fusion.scales.moe.experts.source_of == model.fusion.scales.moe.experts.source_of
    with pytest.raises(InputError, match="pruned or quantised"):
        moezoo.hub.save_single_file(model, tmp_path / "model.safetensors", dataset="digits")
    stored = json.loads((tmp_path / "config.json").read_text())
    for wrong, words in (
        ({"fusion.scales.moe": [0, 3]}, "built with 3 sources"),
        ({"fusion.scale.moe": [0]}, "no MoE layer 'fusion.scale.moe'"),
    ):
        stored["compression"]["sources"] = wrong
        (tmp_path / "config.json").write_text(json.dumps(stored))
        with pytest.raises(ConfigError, match=words):
            moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True)


def test_numbers_that_differ_by_layer_are_saved_by_block(tmp_path, images):
    model = build()
    prune_experts(model, keep=2, data=images, layers="blocks.1.*")
    add_experts(model, num_new=1, data=images, layers="blocks.2.*")
    again = back(model, tmp_path)
    assert torch.equal(again(images), model(images))
    assert again.moezoo_config.num_experts == {0: 4, 1: 2, 2: 5}
    prune_experts(again, keep=1, data=images, layers="blocks.1.*")
    assert back(again, tmp_path).moezoo_config.num_experts == {0: 4, 1: 1, 2: 5}


def test_a_dense_mixture_is_saved_with_as_many_experts_per_token(tmp_path, images):
    model = build(router="dense_softmax", expert_k=4)
    prune(model, images)
    again = back(model, tmp_path)
    assert torch.equal(again(images), model(images))
    assert (again.moezoo_config.num_experts, again.moezoo_config.expert_k) == (3, 3)


def test_what_no_configuration_can_say_is_refused_before_anything_is_written(tmp_path, images):
    model = build(router="dense_softmax", expert_k=4)
    prune_experts(model, keep=2, data=images, layers="blocks.1.*")
    with pytest.raises(ConfigError, match=r"no configuration can say \(blocks\.0\.entity_moe\.moe: 4, .*: 2, .*: 4\)"):
        moezoo.save_pretrained(model, tmp_path / "folder")
    model = build()
    model.extra = MoELayer(8, num_experts=2)
    with pytest.raises(ConfigError, match=r"no configuration can say"):
        moezoo.save_pretrained(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_the_printed_configuration_follows(images, capsys):
    model = build()
    prune(model, images)
    moezoo.print_model_info(model)
    assert "num_experts: 3\n" in capsys.readouterr().out
