"""What is compared, and how near it has to be."""

from __future__ import annotations

import torch
from torch import Tensor

import moezoo


def apart(got: Tensor, want: Tensor) -> float:
    """The norm of the difference over that of ``want``, wherever the two are."""
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    assert got.shape == want.shape
    assert got.isfinite().all()
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def assert_near(got: dict[str, Tensor], want: dict[str, Tensor], limit: float) -> None:
    """Every part within ``limit`` of its own size.

    Where that is nearly nothing beside the largest part, as of sums that cancel out, of a twentieth of the largest.
    """
    assert got.keys() == want.keys()
    largest = max(float(value.detach().norm()) for value in want.values())
    far = {}
    for name, value in want.items():
        got_, want_ = got[name].detach().cpu().double(), value.detach().cpu().double()
        assert got_.shape == want_.shape, name
        assert got_.isfinite().all(), name
        error = float((got_ - want_).norm()) / max(float(want_.norm()), 0.05 * largest, 1e-30)
        if error > limit:
            far[name] = error
    assert not far, far


def results(layer, x: Tensor, grad: Tensor, **inputs) -> dict[str, Tensor]:
    """The output, the auxiliary loss and, in training, every gradient."""
    layer.zero_grad()
    x = x.clone().requires_grad_(layer.training)
    y = layer(x, **inputs)
    found = {"output": y}
    if layer.training:
        aux = moezoo.aux_loss(layer)
        ((y * grad).sum() + aux.to(y.dtype)).backward()
        found |= {"auxiliary loss": aux.reshape(1), "input": x.grad}
        found |= {name: p.grad for name, p in layer.named_parameters() if p.grad is not None}
    return found


def same_decisions(got, want, limit: float = 1e-5) -> None:
    """Two routings that say the same of who computes what."""
    for name in ("token_index", "expert_index", "dropped"):
        assert torch.equal(getattr(got, name).cpu(), getattr(want, name)), name
    assert apart(got.weight, want.weight) < limit
