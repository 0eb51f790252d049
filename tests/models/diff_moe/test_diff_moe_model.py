"""The model: what it answers, and what text and padding do and do not change."""

import copy
import dataclasses

import pytest
import torch
from diff_moe_toys import LOSSES, TINY, batch, tensors, tiny

import moezoo
from moezoo.errors import InputError
from moezoo.measure import memory
from moezoo.models.diff_moe import DiffMoEConfig, Expert, UnifiedModalEncoder
from moezoo.moe import MoELayer


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
