"""Our models in timm's registry: found, listed, created and stored by timm's own functions."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from timm.utils import NativeScaler
from torch.nn import functional as F

import moezoo
from moezoo.errors import ConfigError, UnknownModelError
from moezoo.models import FAMILIES
from moezoo.moe import set_aux_mode

SMALL = {"num_classes": 5, "dropout": 0.0, "load_balance_weight": 0.5, "router_z_weight": 0.1}
"""Weights large enough for a missing or doubled gradient to show."""


def test_timm_finds_and_lists_them(timm_zoo):
    names = timm_zoo.list_models([f"{family}*" for family in FAMILIES])
    assert {"entity_moe_vit_base", "entity_moe_swin_tiny", "entity_moe_vit_tiny_patch16_224"} <= set(names)
    assert set(timm_zoo.list_models(module="moezoo")) == set(names)
    assert timm_zoo.is_model("entity_moe_vit_base.last")
    assert {"entity_moe_vit_base", "entity_moe_vit_base.all"} <= set(timm_zoo.list_pretrained("entity_moe_vit_base"))
    assert not timm_zoo.is_model_pretrained("entity_moe_digits")
    cfg = timm_zoo.get_pretrained_cfg("entity_moe_vit_base")
    assert (cfg.architecture, cfg.input_size) == ("entity_moe_vit_base", (3, 224, 224))
    assert cfg.hf_hub_id == timm_zoo.get_pretrained_cfg("vit_base_patch16_224").hf_hub_id


def test_registering_again_adds_nothing_and_a_foreign_name_is_left_alone(timm_zoo, caplog):
    from moezoo.timm import register, registration

    assert register() == []
    entrypoint = timm_zoo.model_entrypoint("vit_tiny_patch16_224")
    with caplog.at_level(logging.WARNING, "moezoo"):
        assert registration._add("vit/tiny_patch16_224", []) is None
    assert "'vit_tiny_patch16_224' from elsewhere" in caplog.text
    assert timm_zoo.model_entrypoint("vit_tiny_patch16_224") is entrypoint


def test_timm_creates_what_moezoo_creates(timm_zoo):
    ours = moezoo.create_model("entity_moe/test_vit", pretrained=True).eval()
    theirs = timm_zoo.create_model("entity_moe_test_vit", pretrained=True).eval()
    images = torch.randn(2, 1, 16, 16)
    assert torch.equal(ours(images), theirs(images))
    assert theirs.pretrained_cfg["architecture"] == "entity_moe_test_vit"
    data = timm_zoo.data.resolve_model_data_config(theirs)
    assert data == timm_zoo.data.resolve_model_data_config(ours)

    model = timm_zoo.create_model(
        "entity_moe_test_vit2.all", num_classes=3, in_chans=1, img_size=32, drop_path_rate=0.2, init_values=None
    )
    assert model.moezoo_config.inject_layers == "all"
    assert model(torch.randn(2, 1, 32, 32)).shape == (2, 3)
    assert (model.pretrained_cfg["tag"], model.pretrained_cfg["input_size"]) == ("all", (1, 32, 32))
    assert model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.2)
    features = timm_zoo.create_model("entity_moe_test_vit2", features_only=True, out_indices=[0, 2])
    assert [f.shape[1] for f in features(torch.randn(1, 3, 160, 160))] == features.feature_info.channels()
    half = timm_zoo.create_model("entity_moe_test_vit", dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_mistakes_are_told_by_name(timm_zoo):
    with pytest.raises(UnknownModelError, match=r"no variant 'lst'.*Did you mean: last"):
        timm_zoo.create_model("entity_moe_test_vit.lst")
    with pytest.raises(ConfigError, match=r"num_expert'.*Did you mean: num_experts"):
        timm_zoo.create_model("entity_moe_test_vit", num_expert=3)
    with pytest.raises(ConfigError, match="aux_scale=-1"):
        timm_zoo.create_model("entity_moe_test_vit", aux_scale=-1)
    with pytest.raises(ConfigError, match="url is not allowed"):
        timm_zoo.create_model("entity_moe_test_vit", pretrained=True, pretrained_cfg_overlay={"url": "x.pth"})
    with pytest.raises(UnknownModelError, match="entity_moe_vit_base"):
        moezoo.create_model("entity_moe/entity_moe_vit_base")
    assert not any(name.startswith("entity_moe") for name in moezoo.backbones.timm_models.architectures())


def test_a_model_stored_by_timm_comes_back_from_a_folder_and_from_the_hub(timm_zoo, tmp_path, hub):
    model = timm_zoo.create_model("entity_moe_test_vit.last", pretrained=True, num_experts=4).eval()
    timm_zoo.models.save_for_hf(model, str(tmp_path / "stored"), safe_serialization=True)
    files = {file.name: file.read_bytes() for file in (tmp_path / "stored").iterdir()}
    hub.put("user/test_vit", files, lfs=("model.safetensors",))
    images = torch.randn(2, 1, 16, 16)
    for name in (f"local-dir:{tmp_path / 'stored'}", "hf-hub:user/test_vit"):
        again = timm_zoo.create_model(name, pretrained=True, cache_dir=tmp_path / "cache").eval()
        assert torch.equal(again(images), model(images))
        assert again.moezoo_name == "entity_moe/test_vit.last"


@pytest.mark.parametrize("scaled", [False, True])
def test_a_loop_that_knows_nothing_of_moe_gets_the_gradients_of_the_whole_loss(timm_zoo, scaled):
    """Two micro-batches whose losses are halved, with timm's float16 scaler or without."""
    theirs = timm_zoo.create_model("entity_moe_test_vit", aux_scale=0.5, **SMALL)
    ours = moezoo.create_model("entity_moe/test_vit", **SMALL)
    ours.load_state_dict(theirs.state_dict())
    images, labels = torch.randn(2, 4, 1, 16, 16), torch.randint(5, (2, 4))
    scaler = NativeScaler(device="cpu") if scaled else None
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.0)
    for step in range(2):
        (F.cross_entropy(ours(images[step]), labels[step]) + moezoo.aux_loss(ours)).div(2).backward()
        loss = F.cross_entropy(theirs(images[step]), labels[step]) / 2
        if scaler is None:
            loss.backward()
        else:
            scaler(loss, optimizer, need_update=False)
    factor = 1.0 if scaler is None else scaler._scaler.get_scale()
    assert factor == 1 or scaled
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(
            a.grad, b.grad / factor, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}"
        )
    assert all(p.grad.abs().max() > 1e-3 for name, p in ours.named_parameters() if "router" in name)
    set_aux_mode(theirs, "collected")
    NativeScaler(device="cpu")  # is none of its business any more


def test_a_script_runs_with_our_models_and_timm_is_untouched_before(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import sys, timm\nprint(__name__, sys.argv[1:], timm.is_model('entity_moe_vit_base'))\n")
    program = (
        "import runpy, sys, timm, moezoo; moezoo.create_model('entity_moe/test_vit');"
        "print(timm.is_model('entity_moe_vit_base'), hasattr(moezoo, 'timm'), 'moezoo.transformers' in sys.modules);"
        f"sys.argv = ['x', {str(script)!r}, '--a', 'b'];"
        "runpy.run_module('moezoo.timm', run_name='__main__', alter_sys=True)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == ["False False False", "__main__ ['--a', 'b'] True"]


def test_a_model_that_answers_with_a_mapping_gives_timms_loops_its_logits(timm_zoo):
    model = timm_zoo.create_model("diff_moe_digits", num_classes=4)
    images = torch.randn(2, 1, 16, 16)
    logits = model(images)
    assert logits.shape == (2, 4)
    F.cross_entropy(logits, torch.tensor([0, 1])).backward()
    assert model.img_encoder.blocks[0].general_experts.router.keys.grad.any()
    assert timm_zoo.create_model("diff_moe_shapes").eval()(torch.randn(2, 3, 64, 64)).shape == (2, 96)


def test_a_model_of_identities_gives_timms_loops_the_scores_of_all_modalities_together(timm_zoo):
    model = timm_zoo.create_model(
        "multiscale_moe_synthetic", num_classes=4, img_size=(32, 16), scales=(1, 4), modalities=("RGB", "NIR")
    )
    images = torch.randn(3, 2, 3, 32, 16)
    logits = model(images)
    assert logits.shape == (3, 4)
    F.cross_entropy(logits, torch.tensor([0, 1, 2])).backward()
    assert model.backbone.patch_embed.proj.weight.grad.any()
    gate = model.fusion.scales.moe.router
    assert any(p.grad is not None and p.grad.any() for p in gate.parameters())
    assert model.eval()(images).shape == (3, 4)
    assert timm_zoo.create_model("multiscale_moe_market1501.mean", num_classes=0, backbone="test_vit").num_classes == 0
