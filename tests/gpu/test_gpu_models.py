"""Every kind of model of the zoo on a GPU: the same answers, gradients and decisions as on the CPU."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from comparing import apart, assert_near, same_decisions
from contract_models import (
    answer,
    distinct_when_small,
    full_answer,
    images_for,
    is_classifier,
    learns_routes,
    make,
    one_per_layout,
    tiny_overrides,
)

import moezoo
from moezoo.measure import flops
from moezoo.moe import MoELayer

NAMES = distinct_when_small(moezoo.list_models())
LAYOUTS = one_per_layout(NAMES)
UNPROMPTED = "prompt_encoder."


def gradients(model):
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None and not key.startswith(UNPROMPTED)}


def drawn(model):
    return getattr(model.moezoo_config, "compute", None) == "random"


@pytest.mark.parametrize("name", NAMES)
def test_answers_gradients_and_decisions_are_those_of_the_cpu(device, name):
    here, there = make(name).eval(), make(name).eval().to(device)
    if drawn(here):
        here.set_budget(1.0), there.set_budget(1.0)
    images = images_for(here)
    found = []
    for model, x in ((here, images), (there, images.to(device))):
        with moezoo.record_routing(model) as records:
            output = full_answer(model, x)
        output.square().mean().backward()
        found.append(({"answer": output, **gradients(model)}, records))
    (want, expected), (got, records) = found
    assert_near(got, want, 2e-3)
    assert [r.name for r in records] == [r.name for r in expected]
    for one, other in zip(records, expected, strict=True):
        assert one.routing.weight.device.type == device.type
        assert one.grid == other.grid
        if one.routing.slots is None and not drawn(here):
            same_decisions(one.routing, other.routing.detach(), 1e-3)
    assert flops(there, images.to(device)) == flops(here, images)


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_learns_in_every_precision(device, name):
    model = make(name).to(device)
    images = images_for(model, 4).to(device)
    labels = torch.arange(4, device=device)
    for autocast in (None, torch.bfloat16):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.autocast(device.type, autocast or torch.bfloat16, enabled=autocast is not None):
                output = full_answer(model, images)
            output = output.float()
            task = torch.nn.functional.cross_entropy(output, labels) if is_classifier(name) else output.square().mean()
            aux = moezoo.aux_loss(model)
            assert aux.device.type == device.type
            if learns_routes(model.moezoo_config):
                assert aux > 0
            (task + aux).backward()
            for key, p in model.named_parameters():
                assert key.startswith(UNPROMPTED) or p.grad.isfinite().all(), key
            optimizer.step()
    model.eval()
    if drawn(model):
        model.set_budget(1.0)
    with torch.no_grad():
        want = answer(model, images)
        with torch.autocast(device.type, torch.bfloat16):
            auto = answer(model, images)
        halves = [answer(copy.deepcopy(model).to(dtype), images.to(dtype)) for dtype in (torch.bfloat16, torch.float16)]
    for half in (auto, *halves):
        assert apart(half, want) < 0.15
    assert [half.dtype for half in halves] == [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("name", LAYOUTS)
def test_its_weights_travel_between_devices_and_folders(device, name, tmp_path):
    model = make(name).eval().to(device)
    images = images_for(model).to(device)
    with torch.no_grad():
        want = answer(model, images)
        back = make(name).eval()
        back.load_state_dict(model.state_dict())
        assert all(p.device.type == "cpu" for p in back.parameters())
        if not drawn(model):
            assert apart(answer(back, images.cpu()), want) < 1e-3
        moezoo.save_pretrained(model, tmp_path)
        loaded = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True).eval().to(device)
        if not drawn(model):
            assert apart(answer(loaded, images), want) < 1e-5
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize("name", LAYOUTS)
def test_features_and_empty_batches(device, name):
    if getattr(make(name), "encoder", True) is None:
        pytest.skip("has no encoder")
    features = make(name, features_only=True, out_indices=(-1,) if is_classifier(name) else (0,)).eval()
    images = images_for(make(name))
    images = images[:, 0] if images.dim() == 5 else images
    with torch.no_grad():
        want = features(images)
        got = features.to(device)(images.to(device))
        assert apart(got[0], want[0]) < 1e-3
    model = make(name).to(device)
    out = answer(model, images_for(model)[:0].to(device))
    (out.sum() + moezoo.aux_loss(model)).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", LAYOUTS)
def test_checkpointing_changes_neither_loss_nor_gradients(device, name):
    found = []
    for checkpointing in (False, True):
        model = make(name).to(device)
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(0)
        loss = answer(model, images_for(model).to(device)).square().mean() + moezoo.aux_loss(model)
        loss.backward()
        found.append({"loss": loss.reshape(1), **gradients(model)})
    assert_near(found[1], found[0], 1e-3)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_model_is_built_on_the_device(device, name):
    """``with torch.device(...)``: everything is there, and nothing of the building needs the CPU."""
    with torch.device(device):
        built = moezoo.create_model(name, **tiny_overrides(name))
    assert {t.device.type for t in [*built.parameters(), *built.buffers()]} == {device.type}
    assert answer(built.eval(), images_for(built).to(device)).isfinite().all()


def test_an_upcycled_vit_answers_as_the_dense_one_on_the_device(device):
    dense = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4).eval().to(device)
    images = torch.randn(4, 3, 32, 32, device=device)
    with torch.no_grad():
        want = dense(images)
        for config in ({"num_experts": 4, "normalize": True}, {"num_experts": 4, "top_k": 2, "where": "all"}):
            model = moezoo.upcycle(copy.deepcopy(dense), **config)
            assert any(isinstance(m, MoELayer) for m in model.modules())
            assert all(p.device.type == device.type for p in model.parameters())
            assert apart(model(images), want) < 1e-5
            half = model.bfloat16()(images.bfloat16())
            assert apart(half, want) < 3e-2


def test_a_timm_model_gets_adapters_on_the_device(device):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=4).eval().to(device)
    images = torch.randn(4, 3, 32, 32, device=device)
    want = model(images)
    moezoo.inject_moe(model, "last_half")
    torch.testing.assert_close(model(images), want)  # the identity at first
    assert {p.device.type for p in model.parameters()} == {device.type}
    model.train()
    (model(images).square().mean() + moezoo.aux_loss(model)).backward()
