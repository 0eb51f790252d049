"""Attention routing as a file: every image takes its own routes, as the dial stood when it was exported."""

import pytest
import torch

import moezoo
from moezoo.export import export_model
from moezoo.export.formats import FORMATS

SMALL = {"encoder_channels": 8, "big_hidden_dim": 32, "embed_dim": 16, "aggregator_dim": 24, "aggregator": "mean"}
VIT = {"img_size": 32, "num_classes": 5, "budget": None}
SLOW_ONNX = ["pt2", pytest.param("onnx", marks=pytest.mark.slow)]


def check(model, path, format):
    """Export ``model`` and compare the file with it; returns the shares of the images for the big MLPs."""
    exported = export_model(model.eval(), path / f"model.{format}", format=format)
    assert exported.parity.experts_matter
    run, shares = FORMATS[format].load(exported.file), []
    for batch in (1, 2, 7):
        size = model.pretrained_cfg["input_size"]
        images = batch * torch.randn(batch, size[0], *(size[1:] if size[1] < 32 else (32, 32)))
        with torch.no_grad(), moezoo.record_routing(model) as records:
            want = model(images)
        assert (run(images)[0] - want).abs().max() <= FORMATS[format].limit * want.abs().max()
        shares += (records[0].routing.expert_index == 0).view(batch, -1).float().mean(1).tolist()
    return shares


@pytest.mark.parametrize("format", SLOW_ONNX)
def test_routes_are_those_of_the_image_not_those_traced(format, tmp_path):
    model = moezoo.create_model("attention_routing/digits", **SMALL)
    assert len(set(check(model, tmp_path, format))) > 1
    model.set_budget(0.3)
    assert set(check(model, tmp_path, format)) == {5 / 16}


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("variant", ["full_compute", "cheap_compute", "no_routing", "random_routing", "dense"])
def test_controls_are_exported(variant, format, tmp_path):
    model = moezoo.create_model(f"attention_routing/digits.{variant}", **SMALL)
    exported = export_model(model, tmp_path / f"model.{format}", format=format)
    assert exported.parity.pairs == (2 if variant == "random_routing" else 0)


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_a_transformer_that_routes_its_tokens(format, tmp_path):
    model = moezoo.create_model("attention_routing/test_vit", **VIT)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "threshold" not in name:
                parameter.add_(0.5 * torch.randn_like(parameter))
    assert len(set(check(model, tmp_path, format))) > 1
    model.set_budget(0.5)
    assert check(model, tmp_path, format) == pytest.approx([3 / 5] * 10)
