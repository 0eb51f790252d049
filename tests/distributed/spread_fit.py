"""What the ranks of the tests do with the training loop: a toy data set, in float64."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moezoo.data import ImageTensors, Splits
from moezoo.errors import Interrupted
from moezoo.moe import MoELayer
from moezoo.moe.routers import Router
from moezoo.train import TrainingConfig, fit, seeded
from moezoo.train.progress import Silent

CONFIG = TrainingConfig(epochs=2, batch_size=8, lr=0.01, warmup_epochs=0.5, device="cpu", grad_accum_steps=2)


def toy_splits() -> Splits:
    """Four classes told apart by the brightest of four pixels; 36 images are no whole number of batches."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> ImageTensors:
        labels = torch.arange(count) % 4
        images = 0.3 * torch.randn(count, 1, 2, 2, generator=generator, dtype=torch.float64)
        images.view(count, 4)[torch.arange(count), labels] += 1
        return ImageTensors(images, labels)

    return Splits("toy", part(36), part(10), part(10), ("a", "b", "c", "d"), (0.5,), (0.5,))


def toy_model() -> nn.Module:
    with seeded(0):
        layers = [MoELayer(4, num_experts=4, top_k=2, hidden_dim=8, num_shared_experts=1) for _ in range(2)]
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 4), *layers, nn.Linear(4, 4)).double()


def fit_toy(settings: dict[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """The epochs' losses, validation and gradient norms, and the weights at the end."""
    model = toy_model()
    result = fit(model, toy_splits(), replace(CONFIG, **settings), out=folder, resume="auto" if folder else None)
    assert type(model) is nn.Sequential
    curves = [(e.loss, e.aux_loss, e.grad_norm, e.val_loss, e.val_accuracy) for e in result.history]
    return {
        "curves": curves,
        "tokens": [load.tokens for load in result.history[-1].routing],
        "state": dict(model.state_dict()),
    }


def fit_until_told(settings: dict[str, Any], folder: Path) -> str:
    """The first process alone is told to stop, in the run's second step here; what all of them then say."""

    class Scheduler(Silent):
        steps = 0

        def step(self, *args: Any) -> None:
            self.steps += 1
            if self.steps == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    try:
        fit(toy_model(), toy_splits(), replace(CONFIG, **settings), out=folder, resume="auto", observer=Scheduler())
    except Interrupted as stop:
        return str(stop)
    raise AssertionError("the run went on to its end")


def fit_half(spreads: list[dict[str, Any]]) -> list[tuple[list[float], set[torch.dtype]]]:
    """In bfloat16: the epochs' losses, and in what the routers' weights were."""
    results = []
    for spread in spreads:
        model = toy_model().float()
        seen: set[torch.dtype] = set()
        for module in model.modules():
            if isinstance(module, Router):
                module.register_forward_hook(lambda router, *_, seen=seen: seen.add(next(router.parameters()).dtype))
        splits = toy_splits()
        for part in (splits.train, splits.val, splits.test):
            part.images = part.images.float()
        result = fit(model, splits, replace(CONFIG, mixed_precision="bf16", **spread))
        results.append(([epoch.loss for epoch in result.history], seen))
    return results


def fit_several(settings: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [fit_toy(each) for each in settings]
