"""How the measurements run a model: with what input, and without leaving a trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from moezoo.errors import InputError
from moezoo.moe.aux import AuxCalls


def call(model: Any, input: Any) -> Any:
    """``model(input)``; a tuple or list holds positional arguments, a mapping keyword arguments."""
    if isinstance(input, Mapping):
        return model(**input)
    if isinstance(input, (tuple, list)):
        return model(*input)
    return model(input)


def fit_input(model: nn.Module, input: Any) -> Any:
    """``input`` on the model's device, its floating-point tensors in the model's floating-point type.

    Raises:
        InputError: ``input`` is on the meta device and the model is not.
    """
    reference = next((p for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()), None)
    if reference is None:
        return input
    return tree_map_only(Tensor, lambda tensor: _fit(tensor, reference), input)


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Training mode with gradients; modes, buffers, random numbers and auxiliary losses are put back."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    aux = [
        (module.aux, module.aux.__dict__.copy())
        for module in model.modules()
        if isinstance(getattr(module, "aux", None), AuxCalls)
    ]
    model.train()
    try:
        with torch.enable_grad(), torch.random.fork_rng(devices=_cuda_devices(model)):
            yield
    finally:
        for module, was_training in modes:
            module.training = was_training
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for calls, state in aux:
            calls.__dict__.update(state)


def device_of(model: Any, input: Any = None) -> torch.device:
    """The device of the model's first parameter, else of the first input tensor, else the CPU."""
    held = (*model.parameters(), *model.buffers()) if isinstance(model, nn.Module) else ()
    for leaf in (*held, *tree_leaves(input)):
        if isinstance(leaf, Tensor):
            return leaf.device
    return torch.device("cpu")


def _fit(tensor: Tensor, reference: Tensor) -> Tensor:
    if tensor.is_meta and not reference.is_meta:
        raise InputError("the input is on the meta device and the model is not: give both or neither.")
    return tensor.to(reference.device, reference.dtype if tensor.is_floating_point() else None)


def _cuda_devices(model: nn.Module) -> list[int]:
    return sorted({p.device.index for p in model.parameters() if p.is_cuda and p.device.index is not None})
