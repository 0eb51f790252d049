"""The captioner: what it computes, what it refuses, and that it is a model like the others."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch.nn import functional as F

import moezoo
from moezoo.backbones.attention import record_attention
from moezoo.config import override
from moezoo.errors import ConfigError, InputError, NonFiniteError
from moezoo.models.diff_moe import DiffMoEConfig, MoECaptioner, build
from moezoo.moe import MoELayer

SIZES = {
    "img_size": 16,
    "patch_size": 4,
    "in_channels": 3,
    "embed_dim": 32,
    "num_heads": 4,
    "img_encoder_layers": 2,
    "decoder_layers": 2,
    "num_classes": 0,
    "vocab_size": 40,
    "max_text_len": 12,
    "text_embed_dim": 16,
    "mlp_ratio": 1.0,
    "captioner": True,
}
LENGTHS = (9, 4, 7)


def captioner(**fields):
    torch.manual_seed(0)
    return build(override(DiffMoEConfig(**SIZES), fields))


def spread(model):
    """Past the small initial weights, so that every part matters."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def model():
    return spread(captioner()).eval()


def batch(length=9):
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(3, 3, 16, 16, generator=generator)
    text = torch.randint(3, 40, (3, length), generator=generator)
    mask = torch.arange(length) < torch.tensor(LENGTHS)[:, None]
    return images, text, mask


def test_output_shapes_and_keys(model):
    images, text, mask = batch()
    output = model(images, text, mask)
    assert isinstance(model, MoECaptioner)
    assert output.logits.shape == (3, 9, 40)
    assert output["img_features"].shape == (3, 16, 32)
    assert {"logits", "router_loss", "router_z_loss", "router_balance_loss"} <= set(output)
    assert [output[key].item() for key in output if key.endswith("loss")] == [0, 0, 0]
    assert list(output.expert_activations["img_encoder"]) == ["layer_0", "layer_1"]
    assert model(images).logits.shape == (3, 1, 40), "without text: what comes after the beginning"
    torch.testing.assert_close(model(images).logits, model(images, torch.ones(3, 1, dtype=torch.int64)).logits)


def test_padding_changes_nothing_and_is_never_nan(model):
    images, text, mask = batch()
    want = model(images, text, mask).logits
    other = torch.where(mask, text, torch.randint(-5, 99, text.shape))
    assert torch.equal(model(images, other, mask).logits, want)
    assert want.isfinite().all()
    for row, length in enumerate(LENGTHS):
        alone = model(images[row : row + 1], text[row : row + 1, :length]).logits
        torch.testing.assert_close(alone[0], want[row, :length], rtol=1e-4, atol=1e-5)
    holes = mask.clone()
    holes[:, :2] = False  # nothing to look at for the first
    assert model(images, text, holes).logits.isfinite().all()
    with record_attention(model):  # without the fused kernel, which has an answer of its own to nothing
        assert model(images, text, holes).logits.isfinite().all()
    changed = torch.where(holes, text, 5)
    assert torch.equal(model(images, changed, holes).logits, model(images, text, holes).logits)


def test_words_see_the_image_and_the_words_before_and_never_those_behind(model):
    images, text, _ = batch()
    want = model(images, text).logits
    for place in range(9):
        other = text.clone()
        other[:, place] = (other[:, place] + 1) % 40
        change = (model(images, other).logits - want).abs().amax((0, 2))
        assert (change[:place] == 0).all()
        assert (change[place:] > 1e-4).all()
    blurred = images.clone()
    blurred[..., :4, :4] = 0
    assert ((model(blurred, text).logits - want).abs().amax(2) > 1e-4).all()


def test_what_words_look_at_can_be_recorded(model):
    images, text, mask = batch()
    with record_attention(model, lambda name: name.startswith("decoder")) as records:
        model(images, text, mask)
        model.generate(images, num_beams=2)
    own, cross = records[0], records[1]
    assert (own.name, own.cross, own.key_grid) == ("decoder.blocks.0.self_attn", False, None)
    assert own.weights.shape == (3, 4, 9, 9)
    assert (own.weights.triu(1) == 0).all()
    assert (own.key_mask == mask).all()
    assert (cross.cross, cross.query_grid, cross.key_grid, cross.key_prefix) == (True, None, (4, 4), 0)
    assert cross.weights.shape == (3, 4, 9, 16)
    torch.testing.assert_close(cross.weights.sum(-1), torch.ones(3, 4, 9))
    assert all(record.key_grid == ((4, 4) if record.cross else None) for record in records)
    assert records[-1].weights.shape[:3] == (6, 4, 1), "one new word a step, two hypotheses an image"


def test_router_loss_is_the_aux_loss_of_the_classifiers_own_code():
    images, text, mask = batch()
    for fields in ({}, {"layer_reduction": "mean"}, {"z_loss_type": "logsumexp", "balance_loss_type": "switch"}):
        model = captioner(router_z_loss_weight=0.3, router_balance_loss_weight=0.7, dropout=0.0, **fields)
        output = model(images, text, mask)
        twin = build(override(DiffMoEConfig(**SIZES), {**model_fields(model), "captioner": False}))
        twin.load_state_dict(model.state_dict(), strict=False)
        other = twin(images)
        assert torch.equal(output.router_loss, moezoo.aux_loss(model))
        for key in ("router_z_loss", "router_balance_loss"):
            assert output[key] >= 0
            torch.testing.assert_close(output[key], other[key])
        total = 0.3 * output.router_z_loss + 0.7 * output.router_balance_loss
        torch.testing.assert_close(output.router_loss, total, rtol=1e-6, atol=1e-6)


def model_fields(model):
    """Those of its image path, for a classifier with the same one."""
    from moezoo.config import to_dict

    return {**to_dict(model.config), "text_encoder_layers": 0}


@pytest.mark.parametrize("dense", [False, True])
def test_every_parameter_gets_a_gradient(dense):
    model = captioner(dense=dense, global_pool="cls")
    images, text, mask = batch()
    output = model(images, text, mask)
    (F.cross_entropy(output.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten()) + output.router_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert any(isinstance(module, MoELayer) for module in model.modules()) is not dense
    assert not {"text_encoder", "fusion", "head"} & set(dict(model.named_children()))


def test_checkpointing_computes_the_same_and_keeps_less():
    images, text, mask = batch()
    grads, saved = [], []
    for on in (True, False):
        model = captioner(use_gradient_checkpointing=not on)
        model.set_grad_checkpointing(on)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, kept=kept: kept.append(t.nbytes) or t, lambda t: t):
            torch.manual_seed(5)  # dropout
            output = model(images, text, mask)
        (output.logits.square().mean() + output.router_loss).backward()
        grads.append([p.grad for p in model.parameters()])
        saved.append(sum(kept))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)
    assert saved[0] < 0.6 * saved[1]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"num_classes": 10}, ["num_classes=10", "captioner", "0"]),
        ({"vocab_size": 3}, ["vocab_size=3"]),
        ({"max_text_len": 2}, ["max_text_len=2"]),
        ({"decoder_layers": 0}, ["decoder_layers=0"]),
    ],
)
def test_what_cannot_be_built_is_refused(fields, words):
    with pytest.raises(ConfigError) as error:
        captioner(**fields)
    assert all(word in str(error.value) for word in words), error.value


def test_bad_input_is_refused(model):
    images, text, mask = batch()
    for wrong, words in (
        ((images, text[:2]), "one row per image"),
        ((images, text, mask[:, :5]), "mask must have the shape"),
        ((images, text, mask & False), "no real token"),
        ((images, text + 40), "vocab_size=40"),
        ((images, text.repeat(1, 2)), "max_text_len=12"),
        ((images[:, :1], text), "channels"),
        ((images, None, mask), "without text"),
    ):
        with pytest.raises(InputError, match=words):
            model(*wrong)
    for wrong in (images[0], images[:, :, :8], "images"):
        with pytest.raises(InputError, match="images must be"):
            model.generate(wrong)
    alike = captioner(embed_dim=16)  # one image without a batch has the shape of three images' features here
    with pytest.raises(InputError, match=r"images must be .*batch, 3, 16, 16"):
        alike.generate(images[0])
    assert len(alike.generate(alike.encode_image(images[:2])).generated_ids) == 2
    with pytest.raises(NonFiniteError, match="images"):
        model.generate(images * float("nan"))
    with pytest.raises(ConfigError, match="num_beam"):
        model.generate(images, num_beam=3)
    with pytest.raises(ConfigError, match=r"model\.tokenizer"):
        model.caption(images)
    with pytest.raises(ConfigError, match="no classifier"):
        model.reset_classifier(10)


def test_decoder_layers_are_built():
    assert [len(captioner(decoder_layers=n).decoder.blocks) for n in (1, 3)] == [1, 3]
    assert len(build(DiffMoEConfig(**{**SIZES, "decoder_layers": 6})).decoder.blocks) == DiffMoEConfig().decoder_layers


def test_an_empty_batch_has_empty_answers():
    model = spread(captioner())
    for training in (True, False):
        model.train(training)
        output = model(torch.zeros(0, 3, 16, 16), torch.zeros(0, 5, dtype=torch.int64))
        assert output.logits.shape == (0, 5, 40)
        assert output.router_loss.isfinite()
    assert model.generate(torch.zeros(0, 3, 16, 16)).generated_ids.shape == (0, 1)


def test_copies_and_files_hold_the_same_model(model, tmp_path):
    images, text, mask = batch()
    want, ids = model(images, text, mask).logits, model.generate(images).generated_ids
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images, text, mask).logits, want)
    name = "diff_moe/shapes.captioner"
    fresh = moezoo.create_model(name, **{key: value for key, value in SIZES.items() if key != "captioner"}).eval()
    fresh.load_state_dict(model.state_dict())
    moezoo.save_pretrained(fresh, tmp_path)
    loaded = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert torch.equal(loaded(images, text, mask).logits, want)
    assert torch.equal(loaded.generate(images).generated_ids, ids)


def test_features_only_gives_the_maps_of_the_image_encoder(model):
    images, _, _ = batch()
    features = moezoo.create_model(
        "diff_moe/shapes.captioner", features_only=True, **{k: v for k, v in SIZES.items() if k != "captioner"}
    ).eval()
    features.load_state_dict({k: v for k, v in model.state_dict().items() if k in features.state_dict()})
    maps = features(images)
    assert [m.shape for m in maps] == [(3, 32, 4, 4)] * 2
    assert not any("decoder" in key for key in features.state_dict())
    torch.testing.assert_close(
        maps[-1].flatten(2).transpose(1, 2), model.forward_intermediates(images, 1, output_fmt="NLC")[1][0]
    )


def test_runs_in_bfloat16_and_under_autocast(model):
    images, text, mask = batch()
    want = model(images, text, mask).logits
    with torch.autocast("cpu", dtype=torch.bfloat16):
        auto = model(images, text, mask).logits.float()
        assert model.generate(images).scores.isfinite().all()
    half = copy.deepcopy(model).to(torch.bfloat16)
    assert (auto - want).abs().max() < 0.1 * want.abs().max()
    assert (half(images.bfloat16(), text, mask).logits.float() - want).abs().max() < 0.2 * want.abs().max()
    assert half.generate(images.bfloat16()).scores.isfinite().all()
