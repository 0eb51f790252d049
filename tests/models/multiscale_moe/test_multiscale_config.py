"""The configuration of the multi-scale family, its names and its words."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from multiscale_toys import sightings, small

import moezoo
from moezoo.config import decode, to_dict
from moezoo.errors import ConfigError
from moezoo.models.multiscale_moe import MultiScaleMoEConfig


def test_the_registered_names_and_what_they_are():
    names = moezoo.list_models(family="multiscale_moe")
    controls = {"", "dense", "mlp", "concat", "mean", "attention"}
    for base in ("rgbnt201", "rgbnt100", "msvr310", "synthetic", "market1501"):
        variants = {name.partition(".")[2] for name in names if name.startswith(f"multiscale_moe/{base}")}
        assert variants == controls | (set() if base == "market1501" else {"hierarchical", "cross_modal"})
    person = moezoo.model_config("multiscale_moe/rgbnt201")
    assert person == MultiScaleMoEConfig(num_classes=171)
    assert (person.backbone, person.sides, person.scales) == ("vit_base_patch16_224", (256, 128), (4, 8, 16))
    assert moezoo.model_config("multiscale_moe/rgbnt100").sides == (128, 256)
    assert moezoo.model_config("multiscale_moe/market1501").embed_dim == 512
    assert moezoo.is_model_pretrained("multiscale_moe/rgbnt201")
    assert not moezoo.is_model_pretrained("multiscale_moe/synthetic")


def test_the_documents_words_are_accepted():
    config = moezoo.model_config("multiscale_moe/rgbnt201", backbone="vit_small_patch16_224", num_identities=9)
    assert (config.model_name, config.num_classes) == ("vit_small_patch16_224", 9)
    assert moezoo.model_config("multiscale_moe/rgbnt201", gate_num_heads=4).num_heads == 4
    assert decode(MultiScaleMoEConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"scales": []}, "scales"),
        ({"scales": [4, 4]}, r"scales=\[4, 4\].*twice"),
        ({"scales": [0, 4]}, "scales"),
        ({"scale": [4]}, r"unknown field 'scale'.*Did you mean.*scales"),
        ({"modalities": ["RGB", "RGB"]}, "modalities.*twice"),
        ({"modalities": ["near.infrared"]}, r"'near\.infrared' is not allowed"),
        ({"modalities": []}, "modalities"),
        ({"top_k": 4}, r"top_k=4 is not allowed: there are 3 scales"),
        ({"temperature": 0.0}, "temperature"),
        ({"gate_layers": 4}, "gate_layers=4.*less than or equal to 3"),
        ({"window_mode": "3d"}, "window_mode.*Did you mean"),
        ({"fusion": "atention"}, "fusion.*Did you mean.*attention"),
        ({"structure": "hierarchical", "modalities": ["RGB"]}, "structure='hierarchical'.*one modality RGB"),
        ({"structure": "hierarchical", "fusion": "mean"}, "fusion='mean'.*hierarchical"),
        ({"structure": "cross_modal", "dense": True}, "dense=True.*cross_modal"),
        ({"dense": True, "fusion": "mlp"}, "dense=True.*fusion='mlp'"),
        ({"expert_threshold": 1.0}, "expert_threshold"),
        ({"num_classes": -1}, "num_classes"),
    ],
)
def test_what_is_not_allowed_is_told_by_name(fields, told):
    with pytest.raises(ConfigError, match=f"(?s){told}"):
        moezoo.model_config("multiscale_moe/rgbnt201", **fields)


def test_names_and_configurations_need_no_torch():
    code = (
        "import sys, moezoo; moezoo.model_config('multiscale_moe/rgbnt201.hierarchical');"
        "assert len(moezoo.list_models(family='multiscale_moe')) > 30;"
        "import moezoo.models.multiscale_moe; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


EFFECTS = {
    "model_name": "test_vit",
    "backbone_args": {"embed_dim": 32, "num_heads": 2, "depth": 1},
    "img_size": (64, 32),
    "in_chans": 1,
    "num_classes": 3,
    "drop_rate": 0.5,
    "drop_path_rate": 0.5,
    "global_pool": "max",
    "modalities": ("RGB", "NIR", "TIR"),
    "shared_backbone": False,
    "feat_dim": 8,
    "scales": (1, 2, 4),
    "window_mode": "1d",
    "window_op": "conv",
    "fusion": "mean",
    "structure": "cross_modal",
    "hidden_dim": 48,
    "temperature": 0.2,
    "num_heads": 2,
    "gate_layers": 1,
    "top_k": 1,
    "expert_threshold": 0.9,
    "residual_weight": 0.1,
    "final_fusion": False,
    "dropout": 0.5,
    "balance_weight": 0.5,
    "balance_target": 0.9,
    "sparsity_weight": 0.5,
    "diversity_weight": 0.5,
    "neck_feature": "before",
    "dense": True,
}
"""Every field with another value than the tiny model's."""


def _traces(config_fields):
    """What a model with these fields gives to fixed images: its shapes, answers and losses."""
    model = small(**config_fields)
    images = sightings(model, 4)
    weights = [p for p in model.parameters() if p.dim() == 2]
    with torch.no_grad():
        for i, weight in enumerate(weights):  # gates that decide
            weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(i)) * 0.3)
    pairs = model(images)
    parts = [moezoo.aux_loss(model).reshape(1), *(part.flatten() for pair in pairs for part in pair)]
    return torch.cat([*parts, model.eval()(images).flatten()]).detach()


def test_every_field_has_an_effect():
    """``backbone_tag`` names weights; it is tried where weights are."""
    fields = {field.name for field in dataclasses.fields(MultiScaleMoEConfig)} - {"backbone_tag"}
    assert fields == set(EFFECTS)
    before = _traces({})
    assert torch.equal(_traces({}), before)
    for name, value in EFFECTS.items():
        changed = {name: value}
        if name == "model_name":
            changed["backbone_args"] = {"patch_size": 8}
        after = _traces(changed)
        assert after.shape != before.shape or not torch.equal(after, before), name
    with pytest.raises(ConfigError, match="backbone_tag='nope'"):
        small(backbone_tag="nope")
