"""What a model costs is measured on a GPU as on a CPU: FLOPs, latency, memory, and where time goes."""

from __future__ import annotations

import json

import pytest
import torch
from contract_models import images_for, make

from moezoo.measure import flops_per_image, latency, memory, parameters, profile
from moezoo.measure.bench import run_bench
from moezoo.moe import MoELayer, packed_bytes

NAMES = ["entity_moe/digits", "diff_moe/digits", "attention_routing/digits", "multiscale_moe/msvr310", "soft_moe/b16"]


@pytest.mark.parametrize("name", NAMES)
def test_latency_memory_and_profile(device, name, tmp_path):
    model = make(name).to(device)
    images = images_for(model)  # moved by what measures
    before = {key: value.clone() for key, value in model.state_dict().items()}
    twice = latency({"a": model, "b": model}, images, rounds=3, warmup=1, baseline="a")
    assert all(0 < t.p50 <= t.p95 for t in twice.values())
    found = memory(model, images)
    state = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    assert found.peak > found.weights >= state
    assert found.saved_for_backward > 0
    assert flops_per_image(model, images).mean > 0
    assert parameters(model).total == sum(p.numel() for p in model.parameters())
    seen = profile(model, tmp_path, name=name, batch_size=2, steps=2)
    assert json.loads((tmp_path / "profile.json").read_text())
    assert {path.name for path in tmp_path.iterdir()} >= {"inference.trace.json.gz", "training.trace.json.gz"}
    assert seen is not None
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_the_peak_is_what_the_allocator_saw(device):
    layer = MoELayer(64, num_experts=4, top_k=2).to(device)
    few, many = (memory(layer, torch.randn(n, 64)) for n in (100, 10_000))
    rows = 2 * 10_000 * 256 * 4  # the hidden units of all assignments
    assert few.weights == many.weights
    assert many.peak - few.peak > rows / 4
    assert many.saved_for_backward > 50 * few.saved_for_backward


def test_no_second_copy_of_the_weights_is_kept_on_a_gpu(device):
    layer = MoELayer(64, num_experts=4, top_k=2).to(device).eval()
    with torch.no_grad():
        layer(torch.randn(500, 64, device=device))
    assert packed_bytes(layer) == 0 or device.type == "cpu"


def test_a_table_of_models_in_every_type(device):
    kept = ("float32", "bfloat16", "float16")
    rows = run_bench(
        ["entity_moe/digits"], batch_sizes=(1, 4), dtypes=kept, device=device, rounds=2, warmup=1, compare=("dense",)
    )
    assert len(rows) == 2 * len(kept) * 2
    assert not [row.error for row in rows if row.error]
    assert all(row.latency_p50 > 0 for row in rows)
