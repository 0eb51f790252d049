"""The model: what it answers, what text and padding do and do not change, and timm's methods."""

import copy
import dataclasses
import pickle

import pytest
import torch
from diff_moe_toys import TINY, batch, tensors, tiny
from timm.data import resolve_model_data_config
from timm.optim import param_groups_layer_decay

import moezoo
from moezoo.errors import ConfigError, InputError, WeightsUnavailable
from moezoo.measure import flops, memory, parameters
from moezoo.models.diff_moe import DiffMoEConfig, Expert, UnifiedModalEncoder, build
from moezoo.moe import MoELayer, prune_experts, stack, unstack

LOSSES = ["router_loss", "router_z_loss", "router_balance_loss", "cross_modal_loss", "contrastive_loss"]


def test_answers_images_alone_with_text_and_with_padded_text():
    model, (images, text, mask) = tiny(), batch()
    alone = model(images)
    assert alone.logits.shape == (4, 3)
    assert alone.logits is alone.image_logits
    assert alone["embeddings"].shape == (4, 16)
    assert alone.img_features.shape == (4, 4, 16)
    assert alone.text_features is None
    assert list(alone) == ["logits", "image_logits", "embeddings", "img_features", *LOSSES, "expert_activations"]
    assert "fused_features" not in alone
    with pytest.raises(KeyError):
        alone["text_features"]

    for output in (model(images, text), model(images, text, mask)):
        assert set(output) == {field.name for field in dataclasses.fields(output)}
        assert output.logits.shape == output.image_logits.shape == (4, 3)
        assert not torch.equal(output.logits, output.image_logits)
        assert output.text_features.shape == (4, 6, 16)
        assert output.fused_features.shape == (4, 4, 16)
        assert all(output[name].shape == () and output[name].dtype == torch.float32 for name in LOSSES)
        torch.testing.assert_close(output.embeddings, output.fused_features.mean(1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.logits = None


def test_the_image_path_never_sees_the_text():
    """Accuracy must come from the image: no sentence about the label can leak into it."""
    model, (images, text, mask) = tiny().eval(), batch()
    assert torch.equal(model(images, text, mask).image_logits, model(images).logits)
    assert torch.equal(model(images, text, mask).img_features, model(images).img_features)


def test_expert_activations_are_shares_of_every_layer_that_ran():
    model, (images, text, mask) = tiny(), batch()
    with moezoo.record_routing(model) as records:
        shares = model(images, text, mask).expert_activations
    assert {stack: list(layers) for stack, layers in shares.items()} == {
        "img_encoder": ["layer_0", "layer_1"],
        "text_encoder": ["layer_0", "layer_1"],
        "fusion": ["layer_0"],
    }
    found = [share for layers in shares.values() for share in layers.values()]
    for share, record in zip(found, records, strict=True):
        counts = record.routing.counts()
        assert torch.equal(share, counts / counts.sum())
    assert list(model(images).expert_activations) == ["img_encoder"]


def test_recorded_routings_know_where_image_tokens_lie_and_that_words_lie_nowhere():
    model, (_, text, mask) = tiny(img_size=(8, 16), global_pool="cls"), batch()
    with moezoo.record_routing(model) as records:
        model(torch.randn(4, 1, 8, 16), text, mask)
    places = {record.name.split(".")[0]: (record.grid, record.prefix_tokens) for record in records}
    assert places == {"img_encoder": ((2, 4), 1), "text_encoder": (None, 0), "fusion": ((2, 4), 1)}
    tokens = {record.name.split(".")[0]: record.routing.num_tokens for record in records}
    assert tokens == {"img_encoder": 4 * 9, "text_encoder": int(mask.sum()), "fusion": 4 * 9}


def test_what_stands_at_padding_changes_no_output_loss_or_gradient():
    (images, text, mask), results = batch(), []
    for padding in (0, 29, -5, 10**9):
        model = tiny()
        output = model(images, text.masked_fill(~mask, padding), mask)
        (output.logits.square().sum() + output.text_features.square().sum() + output.router_loss).backward()
        results.append((tensors(output), {k: p.grad for k, p in model.named_parameters()}))
    for other in results[1:]:
        for ours, theirs in zip(results[0], other, strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert results[0][1]["text_embed.words.weight"][text[mask].unique()].abs().min() > 0


def test_more_padding_changes_nothing():
    model, (images, text, mask) = tiny(), batch(length=5)
    short = model(images, text, mask)
    longer = model(images, torch.cat([text, text[:, :3]], 1), torch.cat([mask, torch.zeros(4, 3).bool()], 1))
    for key, value in tensors(short).items():
        other = longer[key][:, :5] if key == "text_features" else longer[key]
        torch.testing.assert_close(other, value, rtol=1e-5, atol=1e-6, msg=key)
    full = torch.ones_like(mask)
    torch.testing.assert_close(model(images, text, full).logits, model(images, text).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fused", [True, False])
def test_padding_is_masked_by_both_kinds_of_attention(fused):
    model, (images, text, mask) = tiny().eval(), batch()
    want = model(images, text, mask).logits
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
    torch.testing.assert_close(model(images, text, mask).logits, want, rtol=1e-5, atol=1e-6)
    text[~mask] = 7
    torch.testing.assert_close(model(images, text, mask).logits, want, rtol=1e-5, atol=1e-6)


def test_a_pair_does_not_depend_on_its_batch_in_evaluation():
    model, (images, text, mask) = tiny().eval(), batch()
    with torch.no_grad():
        together, alone = model(images, text, mask), model(images[1:2], text[1:2], mask[1:2])
    for key in ("logits", "image_logits", "embeddings", "text_features", "fused_features"):
        torch.testing.assert_close(together[key][1:2], alone[key], rtol=1e-5, atol=1e-6)
    assert all(together[name] == 0 for name in LOSSES)


def test_an_empty_batch_with_text_gives_no_rows_and_no_loss():
    model, (images, text, mask) = tiny(), batch()
    output = model(images[:0], text[:0], mask[:0])
    assert output.logits.shape == (0, 3)
    assert output.text_features.shape == (0, 6, 16)
    assert all(output[name] == 0 for name in LOSSES)
    output.router_loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_encoders_give_mean_features_of_real_tokens():
    model, (images, text, mask) = tiny(global_pool="cls").eval(), batch()
    output = model(images, text, mask)
    torch.testing.assert_close(model.encode_image(images), output.img_features[:, 1:].mean(1))
    want = torch.stack([output.text_features[i, mask[i]].mean(0) for i in range(4)])
    torch.testing.assert_close(model.encode_text(text, mask), want)
    assert torch.equal(output.embeddings, output.fused_features[:, 0])
    with pytest.raises(InputError, match="wrong number of channels"):
        model.encode_image(images.repeat(1, 3, 1, 1))
    assert not output.text_features[~mask].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, t, m: (x, t[:2], m), r"text \(2, 6\) for 4 images"),
        (lambda x, t, m: (x, t, m[:, :3]), r"mask \(4, 3\) and text \(4, 6\)"),
        (lambda x, t, m: (x, t, m.long()), "mask must be bool"),
        (lambda x, t, m: (x, t.float(), m), "int64 token ids, got torch.float32"),
        (lambda x, t, m: (x, t + 10, m), r"token ids \d+ to \d+; vocab_size=30"),
        (lambda x, t, m: (x, -t - 1, m), "token ids -"),
        (lambda x, t, m: (x, torch.zeros(4, 9).long(), None), "9 tokens, more than max_text_len=8"),
        (lambda x, t, m: (x, t[:, :0], m[:, :0]), "text is empty"),
        (
            lambda x, t, m: (x, t, m & torch.tensor([[True], [False], [True], [False]])),
            r"no real token in row\(s\) 1, 3",
        ),
        (lambda x, t, m: (x, None, m), "mask was given without text"),
        (lambda x, t, m: (x[:, :, :4], t, m), "wrong size"),
        (lambda x, t, m: (x.repeat(1, 3, 1, 1), t, m), "wrong number of channels"),
    ],
)
def test_wrong_input_is_refused_in_words(change, message):
    with pytest.raises(InputError, match=message):
        tiny()(*change(*batch()))


def test_images_alone_are_all_that_a_model_without_text_takes():
    model, (images, text, _) = tiny(text_encoder_layers=0), batch()
    assert not model.takes_text
    assert tiny().takes_text
    assert {name for name, _ in model.named_children()} == {
        *("patch_embed", "image_embed", "img_encoder", "head", "head_drop")
    }
    (model(images).logits.sum() + model(images).router_loss).backward()
    assert all(p.grad is not None for p in model.parameters())
    with pytest.raises(InputError, match="without a text encoder"):
        model(images, text)
    with pytest.raises(InputError, match="labels must have the shape"):
        model(images, labels=torch.zeros(3).long())


def test_only_what_the_stacks_use_is_built():
    def experts(number):
        names = [
            name for name, m in tiny(num_modality_specific_experts=number).named_modules() if isinstance(m, Expert)
        ]
        return {(name.split(".")[0], name.split(".")[-1]) for name in names}

    shared = {(stack, "global_expert") for stack in ("img_encoder", "text_encoder", "fusion")}
    assert experts(0) == shared
    assert experts(1) == shared | {("img_encoder", "vision_expert")}
    assert experts(2) == shared | {("img_encoder", "vision_expert"), ("text_encoder", "text_expert")}
    assert not hasattr(tiny(fusion=False), "fusion")
    assert tiny(num_classes=0)(batch()[0]).logits is None
    gate = tiny(fusion_layers=0).fusion
    assert len(gate.blocks) == 0


def test_a_block_may_have_both_modality_experts_and_go_by_the_tokens_type():
    config = DiffMoEConfig(**TINY)
    block = UnifiedModalEncoder(config, "mixed").eval()
    x, kind = torch.randn(2, 5, 16), torch.tensor([[0, 0, 1, 1, 0], [1, 1, 1, 0, 0]])
    plain = copy.deepcopy(block)
    plain.kind, plain.vision_expert, plain.text_expert = "fusion", None, None
    h = x + block.attn(block.norm1(x))
    want = torch.where(kind[..., None] == 0, block.vision_expert(h), block.text_expert(h))
    torch.testing.assert_close(block(x, token_type=kind), plain(x) + want)
    with pytest.raises(InputError, match="token_type"):
        block(x)


def test_the_fusion_mixes_by_its_gate():
    fusion, (x, words) = tiny(fusion_layers=0).fusion.eval(), (torch.randn(2, 4, 16), torch.randn(2, 3, 16))
    for bias, want in ((100.0, fusion.cross_attn(x, words)), (-100.0, x)):
        torch.nn.init.zeros_(fusion.gate.weight)
        torch.nn.init.constant_(fusion.gate.bias, bias)
        torch.testing.assert_close(fusion(x, words), fusion.norm(want))


def test_router_keys_stay_orthogonal_whatever_the_initial_range():
    for std in (0.02, 0.7):
        model = tiny(initializer_range=std)
        for layer in (m for m in model.modules() if isinstance(m, MoELayer)):
            torch.testing.assert_close(layer.router.keys @ layer.router.keys.T, torch.eye(4), rtol=0, atol=1e-5)
            assert layer.experts.w_in.std().item() == pytest.approx(std, rel=0.15)
        assert model.head.weight.std().item() == pytest.approx(std, rel=0.5)


def test_checkpointing_is_the_default_and_leaves_every_gradient_as_it_is():
    (images, text, mask), results = batch(), []
    assert DiffMoEConfig().use_gradient_checkpointing
    for on in (True, False):
        model = tiny(use_gradient_checkpointing=on, dropout=0.3, drop_path_rate=0.2, router_noise=0.1)
        torch.manual_seed(3)
        with moezoo.record_routing(model) as records:
            output = model(images, text, mask)
            (output.logits.square().sum() + output.router_loss).backward()
        results.append({"loss": output.router_loss, **{k: p.grad for k, p in model.named_parameters()}})
        assert len(records) == 5, "a recomputation is no call"
        assert model.grad_checkpointing == on
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[1])


def test_checkpointing_keeps_a_small_part_for_the_backward_pass():
    model = tiny(img_encoder_layers=6, mlp_ratio=4.0, img_size=32, dropout=0.2)
    images = torch.randn(4, 1, 32, 32)
    kept = memory(model, images).saved_for_backward
    model.set_grad_checkpointing(False)
    assert kept < 0.4 * memory(model, images).saved_for_backward


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
