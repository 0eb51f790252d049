"""The steps that are profiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moezoo.measure.calling import call, device_of
from moezoo.measure.profile_inputs import some_loss
from moezoo.measure.profile_ranges import named_range


def forward_step(model: nn.Module, given: Sequence[Tensor]) -> Callable[[], None]:
    """Calls ``model``, in a range ``step`` with a range ``phase``."""
    device = device_of(model)

    def step() -> None:
        with named_range("step"), _phase("forward", device):
            call(model, given)

    return step


def training_step(model: nn.Module, given: Sequence[Tensor]) -> Callable[[], None]:
    """Forward, loss, backward and optimiser, each a range ``phase`` in a range ``step``; the weights do not change."""
    device = device_of(model)
    for parameter in model.parameters():
        parameter.grad = None
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0)

    def step() -> None:
        with named_range("step"):
            with _phase("forward", device):
                output = call(model, given)
            with _phase("loss", device):
                loss = some_loss(model, output, given)
                del output
            with _phase("backward", device):
                loss.backward()
            with _phase("optimizer", device):
                optimizer.step()
                optimizer.zero_grad()

    return step


@contextmanager
def _phase(name: str, device: torch.device) -> Iterator[None]:
    """A range that ends when the work launched in it has: phases do not lend each other time."""
    with named_range("phase", name):
        yield
        if device.type not in ("cpu", "meta"):
            torch.accelerator.synchronize(device)
