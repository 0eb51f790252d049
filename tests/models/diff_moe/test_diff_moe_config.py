"""Every field of the configuration has an effect, the document's words and defaults, and what is refused."""

import dataclasses

import pytest
import torch
from diff_moe_toys import TINY, batch, tensors, tiny

import moezoo
from moezoo.errors import ConfigError
from moezoo.models.diff_moe import DiffMoEConfig, build

DOCUMENT = {
    "img_size": 28,
    "patch_size": 4,
    "in_channels": 1,
    "embed_dim": 512,
    "num_general_experts": 4,
    "num_modality_specific_experts": 2,
    "top_k": 2,
    "num_heads": 8,
    "img_encoder_layers": 6,
    "text_encoder_layers": 4,
    "fusion_layers": 3,
    "num_classes": 10,
    "dropout": 0.2,
    "activation": "gelu",
    "layer_norm_eps": 1e-5,
    "initializer_range": 0.02,
    "use_gradient_checkpointing": True,
    "vocab_size": 50000,
    "max_text_len": 32,
    "text_embed_dim": 128,
    "router_z_loss_weight": 0.001,
    "router_balance_loss_weight": 0.01,
    "cross_modal_alignment_weight": 0.1,
    "contrastive_loss_weight": 0.1,
    "z_loss_type": "prob_sq",
    "layer_reduction": "sum",
}
OPTIONS = {
    "img_size": 12,
    "patch_size": 2,
    "in_channels": 2,
    "embed_dim": 8,
    "num_general_experts": 3,
    "num_modality_specific_experts": 1,
    "top_k": 1,
    "num_heads": 4,
    "img_encoder_layers": 3,
    "text_encoder_layers": 1,
    "fusion": False,
    "fusion_layers": 0,
    "num_classes": 2,
    "activation": "relu",
    "layer_norm_eps": 0.5,
    "vocab_size": 31,
    "max_text_len": 9,
    "text_embed_dim": 3,
    "mlp_ratio": 2.0,
    "global_pool": "cls",
    "router": "softmax_topk",
    "capacity_factor": 0.3,
    "dense": True,
    "captioner": True,
}
"""Fields that change shapes or answers in evaluation."""
TRAINING = {
    "dropout": 0.5,
    "drop_path_rate": 0.9,
    "router_noise": 5.0,
    "router_dropout": 0.5,
    "router_z_loss_weight": 1.0,
    "router_balance_loss_weight": 1.0,
    "cross_modal_alignment_weight": 1.0,
    "contrastive_loss_weight": 1.0,
    "z_loss_type": "logsumexp",
    "balance_loss_type": "switch",
    "layer_reduction": "mean",
    "temperature_init": 1.0,
}
"""Fields that change what a training forward gives."""
ELSEWHERE = {
    "initializer_range": "test_router_keys_stay_orthogonal_whatever_the_initial_range",
    "use_gradient_checkpointing": "test_checkpointing_is_the_default_and_leaves_every_gradient_as_it_is",
    "dynamic_img_size": "test_other_image_sizes_are_an_error_unless_they_are_asked_for",
    "mean": "test_timm_users_find_what_they_expect",
    "std": "test_timm_users_find_what_they_expect",
}


def test_the_documents_defaults():
    config = DiffMoEConfig()
    assert {name: getattr(config, name) for name in DOCUMENT} == DOCUMENT


def test_every_field_is_tried():
    tried = {*OPTIONS, *TRAINING, *ELSEWHERE, "decoder_layers"}
    assert tried == {field.name for field in dataclasses.fields(DiffMoEConfig)}


@pytest.mark.parametrize("field", OPTIONS)
def test_every_option_changes_the_model(field):
    models = [tiny(), tiny(**{"num_classes": 0} if field == "captioner" else {}, **{field: OPTIONS[field]})]
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in models]
    if shapes[0] == shapes[1]:
        models[1].load_state_dict(models[0].state_dict())
        given = batch()
        assert not torch.equal(models[0].eval()(*given).logits, models[1].eval()(*given).logits)


@pytest.mark.parametrize("field", TRAINING)
def test_every_option_of_training_changes_a_training_forward(field):
    models, given = [tiny(), tiny(**{field: TRAINING[field]})], batch()
    state = {k: v for k, v in models[0].state_dict().items() if field != "temperature_init" or k != "log_scale"}
    models[1].load_state_dict(state, strict=False)
    outputs = []
    for model in models:
        torch.manual_seed(0)
        outputs.append(tensors(model(*given)))
    assert any(not torch.equal(outputs[0][key], outputs[1][key]) for key in outputs[0])


def test_the_captioners_decoder_has_as_many_layers_as_asked_for():
    sizes = [
        sum(p.numel() for p in tiny(captioner=True, num_classes=0, decoder_layers=n).parameters()) for n in (1, 2, 3)
    ]
    assert sizes[2] - sizes[1] == sizes[1] - sizes[0] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 5}, "top_k=5 .* at most num_general_experts=4"),
        ({"num_heads": 3}, "num_heads=3 .* divide embed_dim=16. Allowed: 1, 2, 4, 8, 16"),
        ({"img_size": 10}, "img_size=10 .* multiples of patch_size=4"),
        ({"num_modality_specific_experts": 3}, "num_modality_specific_experts=3 .* 0, 1 or 2"),
        ({"activation": "gelo"}, "activation='gelo'.*gelu"),
        ({"z_loss_type": "logsumexpp"}, "logsumexp"),
        ({"std": (0.0,)}, "standard deviation is above 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_experts_general": 2}, "num_general_experts"),
        ({"contrastive_loss_weight": -1.0}, "contrastive_loss_weight"),
        ({"temperature_init": 0.001}, "temperature_init"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, message):
    with pytest.raises(ConfigError, match=message):
        moezoo.model_config("diff_moe/digits", **{**TINY, **changes})


def test_common_words_are_aliases():
    config = moezoo.model_config("diff_moe/digits", in_chans=3, drop_rate=0.4, num_experts=6)
    assert (config.in_channels, config.dropout, config.num_general_experts) == (3, 0.4, 6)
    assert (config.in_chans, config.drop_rate) == (3, 0.4)
    assert config.per_channel("mean") == (0.5, 0.5, 0.5)
    assert moezoo.model_config("diff_moe/cifar10", in_chans=1).per_channel("std") == pytest.approx((0.2507,))


def test_presets_and_their_twins():
    names = moezoo.list_models(family="diff_moe")
    bare = {name for name in names if "." not in name}
    assert bare == {f"diff_moe/{n}" for n in ("cifar10", "cifar100", "fashion_mnist", "flickr8k", "digits", "shapes")}
    assert {f"{name}.dense" for name in bare} <= set(names)
    assert {name for name in names if name.endswith(".captioner")} == {
        "diff_moe/flickr8k.captioner",
        "diff_moe/shapes.captioner",
    }
    for name in ("cifar10", "fashion_mnist", "digits"):
        assert f"diff_moe/{name}.image_only" in names
        assert not moezoo.model_config(f"diff_moe/{name}.image_only").has_text
    for name in ("cifar10", "cifar100", "fashion_mnist"):
        config = moezoo.model_config(f"diff_moe/{name}")
        changed = {key for key, value in DOCUMENT.items() if getattr(config, key) != value}
        assert changed <= {"img_size", "in_channels", "num_classes"}
    assert moezoo.model_config("diff_moe_shapes.captioner").captioner
    assert build(moezoo.model_config("diff_moe/digits")).num_classes == 10


def test_the_documents_parts_are_there_by_name():
    from torch import nn

    from moezoo.models import diff_moe

    parts = {name: getattr(diff_moe, name) for name in diff_moe.__all__}
    assert {name for name, part in parts.items() if isinstance(part, type) and issubclass(part, nn.Module)} == {
        *("Expert", "PatchEmbed", "AttentiveRouter", "UnifiedModalEncoder", "ImageEncoder", "TextEncoder"),
        *("CrossModalFusion", "MultiModalMoE", "MoECaptioner"),
    }
    assert "diffusion" in diff_moe.__doc__
    with pytest.raises(AttributeError, match="no attribute 'Router'"):
        diff_moe.__getattr__("Router")
