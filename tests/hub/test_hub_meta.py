"""Stored models are built without memory and take the file's tensors, unless the file lacks what they need."""

from __future__ import annotations

import pytest
import torch

import moezoo
from moezoo.hub import adapted

SLIM = {"expert_dim": 8, "mlp_ratio": 0.5, "num_experts": 2, "num_experts_shared": 1, "img_size": 32}
SWIN_ARGS = {"embed_dim": 16, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4}
VIT_ARGS = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
ROPE_ARGS = {"depth": 1, "embed_dim": 48, "num_heads": 3}
CASES = [
    ("test_vit2", {}, True),
    ("hf:a/b", {"backbone_args": {**VIT_ARGS, "model_type": "vit", "image_size": 32, "patch_size": 8}}, True),
    # Indices of windows and rotations of positions are computed when a model is built and stored nowhere.
    ("swin_tiny", {"backbone_args": SWIN_ARGS}, False),
    ("eva02_tiny_patch14_224", {"backbone_args": ROPE_ARGS, "img_size": 28}, False),
]


@pytest.mark.parametrize(("arch", "kwargs", "begins_on_meta"), CASES, ids=[case[0] for case in CASES])
def test_either_way_the_model_is_the_stored_one(arch, kwargs, begins_on_meta, tmp_path, monkeypatch):
    model = moezoo.create_model(f"entity_moe/{arch}", **{**SLIM, **kwargs})
    moezoo.freeze_backbone(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    folder = moezoo.save_pretrained(model, tmp_path)
    real, used = adapted.load_skeleton, []
    monkeypatch.setattr(adapted, "load_skeleton", lambda *args: used.append(real(*args)) or used[-1])
    back = moezoo.create_model(f"local-dir:{folder}", pretrained=True)
    assert used == [begins_on_meta]
    assert back.training
    assert all(p.requires_grad and not p.is_meta for p in back.parameters())
    images = torch.randn(1, *model.pretrained_cfg["input_size"])
    assert torch.equal(back.eval()(images), model.eval()(images))
    back.train()(images).sum().backward()
    # The weights are the model's own memory: what becomes of the file is nothing to it.
    before = back.state_dict()["norm.weight"].clone() if "norm.weight" in back.state_dict() else None
    path = folder / "model.safetensors"
    path.write_bytes(b"\0" * path.stat().st_size)
    assert before is None or torch.equal(back.state_dict()["norm.weight"], before)


def test_a_default_type_or_device_is_heeded(tmp_path):
    model = moezoo.create_model("entity_moe/test_vit2", **SLIM)
    name = f"local-dir:{moezoo.save_pretrained(model, tmp_path)}"
    torch.set_default_dtype(torch.bfloat16)
    try:
        assert moezoo.create_model(name, pretrained=True).head.weight.dtype == torch.bfloat16
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert moezoo.create_model(name, pretrained=True).head.weight.is_meta
