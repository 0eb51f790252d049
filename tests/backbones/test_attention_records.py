"""Recorded attention is what the model attended with: against its own projections, and without leaving a trace."""

import pytest
import torch

import moezoo
from moezoo.backbones.attention import record_attention
from moezoo.errors import MoeZooError


def by_hand(attention, query, other=None, mask=None):
    """softmax(Q K / sqrt(d)) in float64, by the module's own matrices."""
    heads = attention.num_heads
    if other is None:
        q, k = attention.qkv(query).double().chunk(3, -1)[:2]
    else:
        q, k = attention.q(query).double(), attention.kv(other).double().chunk(2, -1)[0]
    q, k = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k))
    score = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
    return (score if mask is None else score.masked_fill(~mask[:, None, None], -torch.inf)).softmax(-1)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return moezoo.create_model("diff_moe/digits", initializer_range=0.2, global_pool="cls").eval()


@torch.no_grad()
def test_every_attention_of_image_text_and_fusion_is_recorded_as_it_was_computed(model):
    images, text = torch.randn(2, 1, 16, 16), torch.randint(4, 60, (2, 7))
    mask = torch.arange(7) < torch.tensor([[7], [4]])
    before = model(images, text, mask)
    inputs = {}
    handles = [
        module.register_forward_pre_hook(lambda m, args, name=name: inputs.update({name: args}))
        for name, module in model.named_modules()
        if name.endswith("attn")
    ]
    with record_attention(model) as records:
        output = model(images, text, mask)
    for handle in handles:
        handle.remove()
    for key in ("logits", "fused_features", "text_features"):
        assert torch.allclose(output[key], before[key], atol=1e-4)
    config = model.moezoo_config
    kinds = {"img_encoder": config.img_encoder_layers, "text_encoder": config.text_encoder_layers}
    names = [f"{stack}.blocks.{i}.attn" for stack, depth in kinds.items() for i in range(depth)]
    fusion = [f"fusion.blocks.{i}.attn" for i in range(config.fusion_layers)]
    assert [each.name for each in records] == [*names, "fusion.cross_attn", *fusion]
    side = 16 // config.patch_size
    for each in records:
        cross, about_text = each.name == "fusion.cross_attn", each.name.startswith("text")
        args = inputs[each.name]
        keys = mask if cross or about_text else None
        expected = by_hand(model.get_submodule(each.name), args[0], args[1] if cross else None, keys)
        assert torch.allclose(each.weights.double(), expected, atol=1e-5), each.name
        assert (each.cross, each.call) == (cross, 0)
        assert (each.query_grid, each.query_prefix) == ((None, 0) if about_text else ((side, side), 1))
        assert (each.key_grid, each.key_prefix) == ((None, 0) if cross or about_text else ((side, side), 1))
        assert torch.equal(each.key_mask, mask if keys is not None else torch.ones(2, side**2 + 1, dtype=torch.bool))


@torch.no_grad()
def test_recording_leaves_the_model_as_it_was_and_can_be_of_some_layers(model):
    images = torch.randn(1, 1, 16, 16)
    expected = model(images).logits
    state = [(m.fused_attn, len(m._forward_pre_hooks)) for m in model.modules() if hasattr(m, "fused_attn")]
    with record_attention(model, lambda name: name.startswith("img_encoder.blocks.1")) as records:
        model(images)
        model(images)
    assert [(each.name, each.call) for each in records] == [("img_encoder.blocks.1.attn", i) for i in range(2)]
    assert state == [(m.fused_attn, len(m._forward_pre_hooks)) for m in model.modules() if hasattr(m, "fused_attn")]
    assert not any(m._forward_pre_hooks for m in model.img_encoder.modules())
    assert torch.equal(model(images).logits, expected)


def test_a_timm_backbone_is_recorded_once_also_with_checkpointing():
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True).train()
    model.set_grad_checkpointing(True)
    with record_attention(model) as records:
        model(torch.randn(2, 1, 16, 16)).sum().backward()
    blocks = [each for each in records if each.name.startswith("blocks") and "entity" not in each.name]
    assert [each.name for each in blocks] == [f"blocks.{i}.attn" for i in range(len(model.blocks))]
    assert all(torch.allclose(each.weights.sum(-1), torch.ones(())) for each in records)


def test_a_compiled_model_is_refused():
    model = torch.compile(moezoo.create_model("entity_moe/test_vit"))
    with pytest.raises(MoeZooError, match="before torch"), record_attention(model):
        pass


@torch.no_grad()
def test_words_that_look_at_an_image_are_recorded_also_when_their_keys_were_kept():
    model = moezoo.create_model("diff_moe/shapes.captioner", decoder_layers=1, img_encoder_layers=1).eval()
    images, text = torch.randn(2, 3, 64, 64), torch.randint(4, 60, (2, 5))
    with record_attention(model, lambda name: name.startswith("decoder")) as records:
        model(images, text)
    own, looked = records
    assert (own.cross, own.query_grid, own.key_grid) == (False, None, None)
    assert torch.equal(own.weights > 0, torch.ones(5, 5).tril().bool().expand_as(own.weights))
    assert (looked.cross, looked.query_grid, looked.key_grid, looked.key_prefix) == (True, None, (8, 8), 0)
    assert looked.weights.shape == (2, 4, 5, 64)
    with record_attention(model, lambda name: name.endswith("cross_attn")) as records:
        model.generate(images, num_beams=1, max_length=4, min_length=4)
    assert [(each.cross, each.key_grid, each.call) for each in records] == [
        (True, (8, 8), i) for i in range(len(records))
    ]
    assert len(records) > 1
