"""What a run changes about the process and the model for its duration only."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from moezoo.backbones.params import freeze_backbone
from moezoo.errors import ConfigError
from moezoo.moe.aux_calls import aux_calls
from moezoo.moe.dial import set_progress
from moezoo.moe.routers import Router
from moezoo.train.config import TrainingConfig


@contextmanager
def run_modes(model: nn.Module, config: TrainingConfig) -> Iterator[None]:
    """Everything below, as ``config`` asks for it; undone afterwards."""
    with ExitStack() as stack:
        stack.enter_context(_own_aux_scale(model))
        stack.enter_context(_loop_checks_numbers(model))
        stack.callback(set_progress, model, 1.0)  # as a model is that was never trained here
        if config.deterministic:
            stack.enter_context(deterministic())
        if config.grad_checkpointing:
            stack.enter_context(_checkpointing(model))
        if config.freeze_backbone:
            stack.enter_context(_frozen_backbone(model))
        yield


def training_mode(model: nn.Module) -> None:
    """``model.train()``, but for batch norms without a trainable parameter: what is frozen keeps its statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and not any(p.requires_grad for p in module.parameters()) and module.affine:
            module.eval()


@contextmanager
def deterministic() -> Iterator[None]:
    """Only algorithms that repeat bit for bit."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn: Any = torch.backends.cudnn
    flags = cudnn.deterministic, cudnn.benchmark
    workspace = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = workspace or ":4096:8"
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = flags
        if workspace is None:
            del os.environ["CUBLAS_WORKSPACE_CONFIG"]


@contextmanager
def _checkpointing(model: nn.Module) -> Iterator[None]:
    switch: Any = getattr(model, "set_grad_checkpointing", None) or getattr(
        model, "gradient_checkpointing_enable", None
    )
    if switch is None:
        raise ConfigError(
            f"grad_checkpointing=True is not possible: {type(model).__name__} has no set_grad_checkpointing()."
        )
    before = getattr(model, "grad_checkpointing", False)
    switch()
    try:
        yield
    finally:
        if not before:
            off: Any = getattr(model, "gradient_checkpointing_disable", None)
            off() if off is not None else switch(False)


@contextmanager
def _frozen_backbone(model: nn.Module) -> Iterator[None]:
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    freeze_backbone(model)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():  # others by now, where they were sharded and put together
            parameter.requires_grad_(before[name])


@contextmanager
def _own_aux_scale(model: nn.Module) -> Iterator[None]:
    """The loop sets the factor of attached losses; the user's comes back."""
    before = [(calls, calls.scale) for calls in aux_calls(model)]
    try:
        yield
    finally:
        for calls, scale in before:
            calls.scale = scale


@contextmanager
def _loop_checks_numbers(model: nn.Module) -> Iterator[None]:
    """Routers pass NaN on: the loop refuses the step, once for all layers and all processes."""
    before = [(m, m.refuses_nonfinite) for m in model.modules() if isinstance(m, Router)]
    for router, _ in before:
        router.refuses_nonfinite = False
    try:
        yield
    finally:
        for router, refuses in before:
            router.refuses_nonfinite = refuses
