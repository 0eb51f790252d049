"""Training on a GPU: in every precision, resumed bit for bit, recipes of every family, under a launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from dataset_folders import few_digits
from safetensors.torch import load_file
from train_toys import SignalAt, Toy, config, toy, weights

import moezoo
from moezoo.data import ImageTensors, Splits
from moezoo.errors import Interrupted
from moezoo.federated import FederatedConfig, simulate
from moezoo.moe import MoELayer
from moezoo.train import fit, resolve_recipe, train_recipe
from moezoo.train.modes import deterministic

SMALL = {
    "entity_moe/digits": (),
    "attention_routing/digits": (),
    "diff_moe/digits": ("model.img_encoder_layers=2",),
    "diff_moe/shapes": ("data.train_images=48", "data.val_images=16", "data.test_images=16"),
    "diff_moe/shapes.captioner": ("data.train_images=48", "data.val_images=16", "data.test_images=16"),
    "soft_moe/digits": (),
    "vmoe/digits": (),
    "mobile_vmoe/digits": (),
    "multiscale_moe/synthetic": (
        *("data.train_identities=4", "data.val_identities=2", "data.test_identities=2", "data.cameras=2"),
        *("training.batch_size=16", "model.feat_dim=32", "model.hidden_dim=32"),
    ),
}
"""Recipes, and what makes them short."""


def splits(count=64):
    generator = torch.Generator().manual_seed(0)

    def part(size):
        labels = torch.arange(size) % 4
        images = 0.1 * torch.randn(size, 1, 2, 2, generator=generator)
        images.view(size, 4)[torch.arange(size), labels] += 1
        return ImageTensors(images, labels)

    return Splits("toy", part(count), part(16), part(16), ("a", "b", "c", "d"), (0.5,), (0.5,))


@pytest.fixture
def little_data(monkeypatch):
    few_digits(monkeypatch)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mixed_precision": "bf16"},
        {"mixed_precision": "fp16"},
        {"ema_decay": 0.5, "grad_accum_steps": 2, "num_workers": 1},
        {"mixup": 0.4, "cutmix": 0.5, "tensorboard": False},
        {"deterministic": True},
    ],
)
def test_it_learns(device, changes, tmp_path):
    if changes.get("mixed_precision") == "fp16" and device.type == "cpu":
        pytest.skip("needs a GPU")
    model = toy(top_k=2, num_shared_experts=1)
    asked = config(**{"device": device.type, "epochs": 12, "batch_size": 8, **changes})
    result = fit(model, splits(), asked, out=tmp_path)
    assert result.history[-1].loss < (1.0 if "mixup" in changes else 0.6) * result.history[0].loss
    assert result.test.classification.top1 > 0.7
    assert result.history[-1].aux_loss > 0
    assert {p.device.type for p in model.parameters()} == {device.type}
    assert all(torch.isfinite(p).all() for p in model.parameters())
    steps = [json.loads(line) for line in (tmp_path / "steps.jsonl").open()]
    assert all(step["grad_norm"] > 0 for step in steps[1:])


@pytest.mark.parametrize("router", ["sigmoid_bias", "noisy_topk"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_resumed_it_equals_the_uninterrupted_run_bit_for_bit(device, precision, router, tmp_path):
    """Dropout and router noise go on where the device's generator was."""
    asked = config(
        device=device.type, epochs=3, batch_size=8, ema_decay=0.9, mixed_precision=precision, deterministic=True
    )

    def run(folder, **more):
        model = toy(router=router, top_k=2)
        result = fit(model, splits(), asked, out=folder, **more)
        return [weights(model).tolist(), *(m.loss for m in result.history)]

    whole = run(tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(tmp_path / "run", observer=SignalAt(11))
    torch.manual_seed(5)
    assert run(tmp_path / "run", resume="auto") == whole


def test_the_same_seed_gives_the_same_weights_and_leaves_the_callers_generators_alone(device):
    found = []
    for seed in (1, 1, 2):
        model = toy()
        torch.manual_seed(3)
        here, there = torch.rand(2), torch.rand(2, device=device)
        torch.manual_seed(3)
        fit(model, splits(), config(device=device.type, epochs=1, seed=seed, deterministic=True))
        assert torch.equal(torch.rand(2), here)
        if device.type != "cpu":
            assert torch.equal(torch.rand(2, device=device), there)
        found.append(weights(model))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(only_cuda, tmp_path):
    asked = {"epochs": 3, "batch_size": 8}
    with pytest.raises(Interrupted):
        fit(toy(), splits(), config(device="cuda", **asked), out=tmp_path, observer=SignalAt(11))
    model = toy()
    fit(model, splits(), config(device="cpu", **asked), out=tmp_path, resume="auto")
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_every_layer_is_deterministic_where_that_is_asked_for(device):
    with deterministic():
        for expert in ("mlp", "glu", "residual_mlp"):
            for router in ("softmax_topk", "expert_choice", "soft", "top_p", "dense_softmax"):
                torch.manual_seed(0)
                top_k = 4 if router == "dense_softmax" else 1
                layer = MoELayer(16, num_experts=4, top_k=top_k, router=router, expert=expert).to(device)
                x, found = torch.randn(4, 20, 16, device=device), []
                for _ in range(2):
                    layer.zero_grad()
                    y = layer(x)
                    (y.square().mean() + moezoo.aux_loss(layer)).backward()
                    found.append([y, *(p.grad.clone() for p in layer.parameters())])
                assert all(torch.equal(a, b) for a, b in zip(*found, strict=True)), (expert, router)


AFTER_A_PRODUCT = """
import torch
from moezoo.train.modes import deterministic

x = torch.ones(8, 8, device="cuda")
x @ x
with deterministic():
    x @ x
"""


@pytest.mark.usefixtures("only_cuda")
def test_deterministic_mode_needs_nothing_set_before():
    env = {key: value for key, value in os.environ.items() if key != "CUBLAS_WORKSPACE_CONFIG"}
    program = [sys.executable, "-c", AFTER_A_PRODUCT]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=100, env=env)
    assert ended.returncode == 0, ended.stderr[-2000:]


@pytest.mark.usefixtures("little_data")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
@pytest.mark.parametrize("name", SMALL)
def test_recipes_of_every_family(device, name, precision, tmp_path):
    if precision == "fp16" and device.type == "cpu":
        pytest.skip("needs a GPU")
    more = [f"training.mixed_precision='{precision}'", f"training.device={device.type}", "training.epochs=2"]
    more += ["training.warmup_epochs=0", "training.batch_size=16", f"training.grad_checkpointing={precision == 'bf16'}"]
    if precision == "fp16":
        more += ["training.ema_decay=0.5", "training.grad_accum_steps=2"]
    run = train_recipe(resolve_recipe(name, assignments=[*more, *SMALL[name]]), tmp_path / "run")
    assert len(run.result.history) == 2
    assert all(m.loss == m.loss for m in run.result.history)
    loaded = moezoo.create_model(f"local-dir:{tmp_path / 'run'}", pretrained=True)
    for key, value in run.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.cpu()), key


def test_clients_train_on_the_device(device):
    model = Toy()
    found = simulate(
        model,
        splits(),
        FederatedConfig(clients=2, rounds=2, partition="iid", baselines=("fedavg",)),
        training=config(device=device.type, epochs=1, batch_size=8),
    )
    assert found.result is not None
    assert {t.device.type for t in found.state.values()} == {"cpu"}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_one_process_under_a_launcher(device, strategy, tmp_path):
    if strategy == "fsdp" and device.type == "cpu":
        pytest.skip("is about CUDA")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "--master-port", "0"]
    line += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "-m", "moezoo", "train", "entity_moe/digits"]
    given = {"epochs": 1, "warmup_epochs": 0, "batch_size": 512, "device": device.type, "parallel": strategy}
    given |= {"mixed_precision": "bf16"}
    line += ["--out", str(tmp_path / "run")]
    for key, value in given.items():
        line += ["--set", f"training.{key}={value}"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200, env={**os.environ, "COLUMNS": "200"})
    assert ended.returncode == 0, ended.stderr[-3000:] + ended.stdout[-1000:]
    assert load_file(tmp_path / "run" / "model.safetensors")
