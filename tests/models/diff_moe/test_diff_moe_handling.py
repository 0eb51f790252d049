"""What can be done with a model: pruned, saved, copied, given to timm, compiled, at half precision."""

import copy
import pickle

import pytest
import torch
from diff_moe_toys import LOSSES, TINY, batch, tiny
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay

import moezoo
from moezoo.errors import ConfigError, InputError, WeightsUnavailable
from moezoo.measure import flops, parameters
from moezoo.models.diff_moe import DiffMoEConfig, build
from moezoo.moe import MoELayer, prune_experts, stack, unstack


def test_the_dense_twin_computes_as_much_but_for_the_routers():
    (images, text, mask), (moe, twin) = batch(), (tiny(), tiny(dense=True))
    for given in (images, (images, text), (images, text, mask)):
        counted, dense = flops(moe, given), flops(twin, given)
        assert counted.executed == counted.analytic
        with moezoo.record_routing(moe) as records:
            moe(*(given if isinstance(given, tuple) else (given,)))
        routing = sum(moe.get_submodule(r.name).router.flops(r.routing) for r in records)
        assert counted.executed - routing == dense.executed == dense.analytic
    assert not any(isinstance(m, MoELayer) for m in twin.modules())
    assert parameters(moe).active < parameters(moe).total
    assert twin(images).router_loss == 0


def test_experts_can_be_pruned_unstacked_and_saved(tmp_path):
    model, (images, text, mask) = tiny().eval(), batch()
    model.moezoo_name, model.moezoo_config = "diff_moe/digits", model.config
    want = model(images, text, mask).logits
    for layer in (m for m in model.modules() if isinstance(m, MoELayer)):
        layer.experts = stack(unstack(layer.experts))
    assert torch.equal(model(images, text, mask).logits, want)
    prune_experts(model, keep=3, data={"images": images, "text": text, "mask": mask})
    moezoo.save_pretrained(model, tmp_path / "pruned")
    loaded = moezoo.create_model(f"local-dir:{tmp_path / 'pruned'}", pretrained=True).eval()
    assert loaded.moezoo_config.num_general_experts == 3
    assert torch.equal(loaded(images, text, mask).logits, model(images, text, mask).logits)
    prune_experts(model, keep=2, data=images, layers="img_encoder.*")
    with pytest.raises(ConfigError, match="no configuration can say"):
        moezoo.save_pretrained(model, tmp_path / "uneven")


def test_the_card_says_what_the_family_is(tmp_path):
    moezoo.save_pretrained(moezoo.create_model("diff_moe/digits"), tmp_path / "classes")
    card = (tmp_path / "classes" / "README.md").read_text()
    assert "4 experts in each MoE layer, 10 classes. Diff-MoE reads images and text, and has nothing to do" in card
    moezoo.save_pretrained(moezoo.create_model("diff_moe/shapes.captioner", embed_dim=16), tmp_path / "captioner")
    card = (tmp_path / "captioner" / "README.md").read_text()
    assert "pipeline_tag: image-to-text" in card
    assert "writes a sentence about an image" in card


@pytest.mark.parametrize("changes", [{}, {"dense": True}, {"text_encoder_layers": 0}])
def test_saved_models_come_back_whole_and_adapt_to_other_images_and_classes(changes, tmp_path):
    images, text, mask = batch()
    torch.manual_seed(0)
    model = moezoo.create_model("diff_moe/digits", **{**TINY, **changes}).eval()
    given = (images, text, mask) if model.takes_text else (images,)
    moezoo.save_pretrained(model, tmp_path / "saved")
    name = f"local-dir:{tmp_path / 'saved'}"
    loaded = moezoo.create_model(name, pretrained=True).eval()
    assert torch.equal(loaded(*given).logits, model(*given).logits)
    assert loaded.moezoo_config == model.moezoo_config
    other = moezoo.create_model(name, pretrained=True, num_classes=5, in_chans=3, img_size=16).eval()
    assert other(torch.randn(2, 3, 16, 16)).logits.shape == (2, 5)
    assert len(other.pretrained_cfg["mean"]) == 3
    grey = images.repeat(1, 3, 1, 1)
    alike = moezoo.create_model(name, pretrained=True, in_chans=3).eval()
    torch.testing.assert_close(alike(grey).logits, model(images).logits, rtol=1e-4, atol=1e-5)


def test_copies_and_pickles_answer_alike_and_stand_alone():
    model, given = tiny(), batch()
    model(*given).logits.sum()  # leaves a graph behind
    clones = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
    want = model.eval()(*given).logits
    for clone in clones:
        assert torch.equal(clone.eval()(*given).logits, want)
    torch.nn.init.zeros_(clones[0].head.weight)
    assert torch.equal(model(*given).logits, want)


def test_other_image_sizes_are_an_error_unless_they_are_asked_for():
    model = tiny(dynamic_img_size=True).eval()
    with moezoo.record_routing(model) as records:
        output = model(torch.randn(2, 1, 8, 24))
    assert output.img_features.shape == (2, 12, 16)
    assert records[0].grid == (2, 6)
    maps = model.forward_intermediates(torch.randn(2, 1, 12, 8), intermediates_only=True)
    assert [tuple(m.shape) for m in maps] == [(2, 16, 3, 2)] * 2
    with pytest.raises(InputError, match=r"divisible by patch_size=4, got \(2, 1, 8, 10\)"):
        model(torch.randn(2, 1, 8, 10))

    model = tiny().eval()
    before = model(torch.ones(1, 1, 8, 8)).logits
    model.set_input_size(16)
    assert model(torch.ones(1, 1, 16, 16)).img_features.shape == (1, 16, 16)
    assert resolve_model_data_config(model)["input_size"] == (1, 16, 16)
    torch.testing.assert_close(model(torch.ones(1, 1, 16, 16)).logits, before, rtol=0.5, atol=0.5)


def test_timm_users_find_what_they_expect():
    model, (images, text, mask) = tiny(mean=(0.2,), std=(0.3,)), batch()
    data = resolve_model_data_config(model)
    assert (data["input_size"], data["mean"], data["std"]) == ((1, 8, 8), (0.2,), (0.3,))
    final, maps = model.eval().forward_intermediates(images, indices=[0, 1], norm=True, output_fmt="NLC")
    assert torch.equal(final, model.forward_features(images))
    assert torch.equal(maps[1], final)
    assert torch.equal(model.forward_head(final, pre_logits=True), model(images).embeddings)
    assert model.get_classifier() is model.head
    groups = param_groups_layer_decay(model, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    rates = {name: scale[id(p)] for name, p in model.named_parameters()}
    order = ["head.weight", "fusion.gate.weight", "img_encoder.norm.weight", "text_encoder.blocks.0.norm1.weight"]
    assert [rates[name] for name in order] == [1, 0.5, 0.25, 0.125]
    assert rates["img_encoder.blocks.1.norm1.weight"] == rates["img_encoder.norm.weight"]
    assert rates["patch_embed.proj.weight"] == rates["text_embed.words.weight"] == min(rates.values())
    assert model.no_weight_decay() == {
        *("image_embed.position", "image_embed.modality", "text_embed.position", "text_embed.modality", "log_scale")
    }
    model.reset_classifier(7)
    assert model(images, text, mask).logits.shape == (4, 7)
    with pytest.raises(ConfigError, match="global_pool"):
        model.reset_classifier(7, "cls")


def test_parameters_have_roles():
    model = tiny()
    trains = {"moe": [], "backbone": [], "head": []}
    for group in moezoo.param_groups(model, lr_backbone=1e-5, lr_moe=1e-3, lr_head=1e-2):
        ids = {id(p) for p in group["params"]}
        trains[group["name"]] = [name for name, p in model.named_parameters() if id(p) in ids]
    assert trains["head"] == ["head.weight", "head.bias"]
    parts = {name.split(".")[3] for name in trains["moe"]}
    assert parts == {"general_experts", "global_expert", "vision_expert", "text_expert"}
    moezoo.freeze_backbone(model)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {*trains["moe"], *trains["head"]}


def test_model_info_shows_the_configuration(capsys):
    moezoo.print_model_info(moezoo.create_model("diff_moe/digits"), verbose=True)
    text = capsys.readouterr().out
    assert "diff_moe/digits configuration" in text
    assert "num_general_experts: 4" in text
    assert "active per token" in text


def test_there_are_no_pretrained_weights_yet_and_the_error_says_so():
    with pytest.raises(WeightsUnavailable, match="no pretrained weights"):
        moezoo.create_model("diff_moe/digits", pretrained=True)
    cfg = moezoo.get_pretrained_cfg("diff_moe/cifar10")
    assert cfg.input_size == (3, 32, 32)
    assert cfg.mean == (0.4914, 0.4822, 0.4465)


def test_half_precision_and_autocast_stay_close():
    model, (images, text, mask) = tiny().eval(), batch()
    with torch.no_grad():
        want = model(images, text, mask).logits
        with torch.autocast("cpu", dtype=torch.bfloat16):
            auto = model(images, text, mask)
        half = model.to(torch.bfloat16)(images.bfloat16(), text, mask)
    assert half.logits.dtype == torch.bfloat16
    for other in (auto, half):
        assert (other.logits.float() - want).abs().max() < 0.2 * want.abs().max()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = tiny()(images, text, mask)
    assert all(output[name].dtype == torch.float32 for name in LOSSES)
    output.router_loss.backward()


@pytest.mark.slow
def test_text_compiles_and_exports_with_the_image():
    model, (images, text, mask) = tiny().eval(), batch()
    with torch.no_grad():
        want = model(images, text).logits
        exported = torch.export.export(model, (images, text)).module()
        torch.testing.assert_close(exported(images, text).logits, want, rtol=1e-4, atol=1e-5)
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(images, text, mask).logits, model(images, text, mask).logits)


def test_runs_on_the_meta_device_with_text():
    with torch.device("meta"):
        model = build(DiffMoEConfig(**TINY))
        images, text = torch.empty(2, 1, 8, 8), torch.empty(2, 5, dtype=torch.int64)
        output = model(images, text, torch.empty(2, 5, dtype=torch.bool))
    assert output.logits.shape == (2, 3)
    assert output.router_loss.is_meta
