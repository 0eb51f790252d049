"""Judging, explaining, writing captions and compressing on a GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from comparing import apart
from contract_models import answer, images_for, make
from torch.utils.data import Subset

import moezoo
from moezoo.compress import CachedMoE, compression_table, dequantize, is_quantized, prune_hidden, quantize, size_of
from moezoo.data import input_options, load_dataset
from moezoo.errors import ConfigError
from moezoo.eval import evaluate, explain_decision, predict, reid_metrics
from moezoo.moe import MoELayer, add_experts, merge_experts, prune_experts

CAPTIONER = "diff_moe/shapes.captioner"


def spread(model):
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=generator))
    return model


@pytest.mark.parametrize("rerank", [False, True])
def test_identities_are_found_by_features_on_the_device(device, rerank):
    torch.manual_seed(0)
    features, identities, cameras = torch.randn(90, 16), torch.arange(90) % 9, torch.arange(90) % 4
    features += 2 * torch.eye(16)[identities]
    want = reid_metrics(
        (features[:30], identities[:30], cameras[:30]), (features[30:], identities[30:], cameras[30:]), rerank=rerank
    )
    there = [t.to(device) for t in (features, identities, cameras)]
    got = reid_metrics([t[:30] for t in there], [t[30:] for t in there], rerank=rerank)
    assert got["mAP"] == pytest.approx(want["mAP"], abs=1e-4)
    assert got["cmc"] == pytest.approx(want["cmc"], abs=0.04)


@pytest.mark.parametrize("name", ["entity_moe/digits", "attention_routing/digits", "diff_moe/digits"])
def test_a_model_on_the_device_is_judged_as_on_the_cpu(device, name):
    model = spread(moezoo.create_model(name)).eval()
    part = Subset(load_dataset("digits", **input_options(model, "digits")).test, range(100))
    want, (logits, labels, _) = evaluate(model, part, metrics=None), predict(model, part)
    there = copy.deepcopy(model).to(device)
    got, (logits_there, labels_there, loads) = evaluate(there, part, metrics=None), predict(there, part)
    assert logits_there.device.type == "cpu"
    assert torch.equal(labels, labels_there)
    assert apart(logits_there, logits) < 1e-3
    assert got.classification.top1 == pytest.approx(want.classification.top1, abs=0.011)
    assert (
        [each.layer for each in got.routing] == [each.layer for each in want.routing] == [each.layer for each in loads]
    )
    assert got.metrics.keys() == want.metrics.keys()


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
@pytest.mark.parametrize("name", ["multiscale_moe/msvr310", "entity_moe/digits"])
def test_decisions_are_explained_as_on_the_cpu(device, name, method):
    model = spread(make(name)).eval()
    images = images_for(model)
    want = explain_decision(model, images, method=method, cells=(4, 2), steps=4, random_orders=2)
    got = explain_decision(
        copy.deepcopy(model).to(device), images.to(device), method=method, cells=(4, 2), steps=4, random_orders=2
    )
    for one, other in zip(got, want, strict=True):
        assert apart(torch.tensor(one.saliency), torch.tensor(other.saliency)) < 2e-2
        assert one.text()


@pytest.mark.parametrize("how", [{"num_beams": 1}, {"num_beams": 3}, {"do_sample": True, "num_beams": 1, "top_k": 5}])
def test_captions_are_written_on_the_device(device, how):
    model = spread(make(CAPTIONER)).eval()
    images = images_for(model)
    there = copy.deepcopy(model).to(device)
    generator = torch.Generator(device).manual_seed(0)
    got = there.generate(images.to(device), generator=generator if "do_sample" in how else None, **how)
    assert got.generated_ids.device.type == device.type
    if "do_sample" in how:
        again = there.generate(images.to(device), generator=generator.manual_seed(0), **how)
        assert torch.equal(again.generated_ids, got.generated_ids)
    else:
        assert torch.equal(got.generated_ids.cpu(), model.generate(images, **how).generated_ids)
    with torch.autocast(device.type, torch.bfloat16):
        assert there.generate(images.to(device), num_beams=2).generated_ids.shape[0] == len(images)


@pytest.mark.parametrize("mode", ["int8_dynamic", "int8_weight_only"])
@pytest.mark.parametrize(
    "name", ["entity_moe/digits", "diff_moe/digits", "attention_routing/digits", "multiscale_moe/msvr310"]
)
def test_int8_weights_compute_what_they_stand_for(device, name, mode):
    model = make(name).eval()
    images = images_for(model, 3).to(device)
    small = quantize(copy.deepcopy(model), mode).to(device)
    assert is_quantized(small)
    assert size_of(small).bytes < size_of(model).bytes
    full = dequantize(copy.deepcopy(small))
    with torch.no_grad():
        rounded = device.type == "cpu" and mode == "int8_dynamic"  # inputs too, there alone
        assert apart(answer(small, images), answer(full, images)) < (5e-2 if rounded else 1e-3)
        assert apart(answer(small, images), answer(model.to(device), images)) < 0.1
        with torch.autocast(device.type, torch.bfloat16):
            assert apart(answer(small, images), answer(full, images)) < 0.1
        again = quantize(copy.deepcopy(model), mode)  # of weights that are there already
        assert apart(answer(again, images), answer(small, images)) < 1e-3


def test_answers_are_kept_and_known_again(device):
    model = CachedMoE(make("entity_moe/digits").eval().to(device))
    images = images_for(model.module).to(device)
    with torch.no_grad():
        first, again = model(images), model(images.clone())
        assert torch.equal(first, again)
        assert again.device.type == device.type
        model.module.head.weight.mul_(2)
        assert not torch.equal(model(images), first)
    assert model.cache_info()[:2] == (1, 2)
    with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
        model(images)
    assert model.cache_info().misses == 3


@pytest.mark.parametrize("expert", ["mlp", "glu", "residual_mlp"])
def test_surgery_on_the_device(device, expert):
    layer = MoELayer(8, num_experts=4, top_k=2, expert=expert, hidden_dim=12).to(device)
    x = torch.randn(50, 8, device=device)
    add_experts(layer, num_new=2, data=[x])
    assert layer(x).shape == x.shape
    prune_experts(layer, keep=4, data=[x])
    merge_experts(layer, num_experts=2, data=[x])
    prune_hidden(layer, 0.25)
    assert {p.device.type for p in layer.parameters()} == {device.type}
    y = layer(x)
    (y.square().mean() + moezoo.aux_loss(layer)).backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_table_of_compressions(device):
    model = make("entity_moe/digits").eval().to(device)
    images = images_for(model, 4).to(device)
    rows = compression_table({"full": model, "int8": quantize(copy.deepcopy(model))}, images, rounds=3)
    assert [row.name for row in rows] == ["full", "int8"]


def test_a_device_that_is_not_there_is_an_error_that_says_what_is(only_cuda):
    from moezoo.train import find_device

    assert find_device("auto").type == "cuda"
    with pytest.raises(ConfigError, match="auto, cpu, cuda"):
        find_device("mps")
