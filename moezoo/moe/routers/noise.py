"""Gaussian noise on router logits, kept in the routing for the losses that need its size."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from moezoo.moe.types import Routing


def noisy_top_k(clean_TE: Tensor, noise_std: float | Tensor, top_k: int, normalize: bool) -> Routing:
    """Softmax top-k of the logits with noise of standard deviation ``noise_std`` (a number, or (T, E)); 0 adds none."""
    logits_TE, std = add_noise(clean_TE, noise_std)
    if std is None:
        return Routing.from_logits(clean_TE, top_k, normalize)
    routing = Routing.from_logits(logits_TE, top_k, normalize, clean_logits_TE=clean_TE)
    return dataclasses.replace(routing, noise_std=std)


def add_noise(clean: Tensor, noise_std: float | Tensor) -> tuple[Tensor, Tensor | None]:
    """The logits with one draw of noise, and its standard deviation as a tensor; as they are, and ``None``, for 0."""
    if not isinstance(noise_std, Tensor):
        if noise_std == 0:
            return clean, None
        noise_std = clean.new_full((), noise_std)
    return clean + torch.randn_like(clean) * noise_std, noise_std
