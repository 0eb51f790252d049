"""A model's tensors as a safetensors file takes them: dense, contiguous, finite, none sharing memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.altered.weights import without_replaced
from moezoo.errors import InputError, NonFiniteError

SHOWN = 8
"""Names listed in an error before the rest is counted."""


def shown(items: list[str]) -> str:
    """The first items joined by commas, and how many more there are."""
    more = f" and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return ", ".join(items[:SHOWN]) + more


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside ``torch.compile`` and data-parallel wrappers."""
    while True:
        if isinstance(inner := getattr(model, "_orig_mod", None), nn.Module) or (
            isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel))
            and isinstance(inner := model.module, nn.Module)
        ):
            model = inner
        else:
            return model


def portable_state(model: nn.Module) -> dict[str, Tensor]:
    """``model.state_dict()`` as :func:`portable` tensors, keys free of compile wrappers.

    Raises:
        InputError: An entry is not a plain dense tensor with data (extra state, sparse, sharded or meta
            tensors).
    """
    state = without_replaced(unwrapped(model).state_dict())
    return portable({key.replace("_orig_mod.", ""): value for key, value in state.items()}, "the model's state")


def portable(tensors: Mapping[str, Any], what: str) -> dict[str, Tensor]:
    """``tensors`` on the CPU, contiguous, each with memory of its own.

    Tied tensors are written under each of their names, so that a reader needs no knowledge of the ties.

    Args:
        tensors: By name.
        what: What to call them in the message.

    Raises:
        InputError: An entry is not a plain dense tensor with data.
    """
    state: dict[str, Tensor] = {}
    owned: set[int] = set()
    foreign = []
    for key, value in tensors.items():
        plain = type(value) in (Tensor, nn.Parameter)
        if not plain or value.layout is not torch.strided or value.is_meta or value.is_quantized:
            foreign.append(f"{key} ({type(value).__name__})")
            continue
        tensor = value.detach().cpu().contiguous()
        # A tensor whose storage is already taken, or larger than itself, is a tie or a view of another.
        storage = tensor.untyped_storage()
        if storage.data_ptr() in owned or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone(memory_format=torch.contiguous_format)
        owned.add(tensor.untyped_storage().data_ptr())
        state[key] = tensor
    if foreign:
        raise InputError(f"only plain dense tensors can be saved; {what} also holds {shown(foreign)}")
    return state


def digest(state: Mapping[str, Tensor]) -> str:
    """sha256 of names, types, shapes and values, whatever file they came from."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        total.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        total.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def refuse_nonfinite(state: dict[str, Tensor], place: str) -> None:
    """Raise :class:`NonFiniteError` naming every tensor of ``state`` that holds NaN or infinity."""
    bad = []
    for name, tensor in state.items():
        if tensor.is_floating_point() or tensor.is_complex():
            wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
            if wrong:
                bad.append(f"{name} ({wrong} of {tensor.numel()} values)")
    if bad:
        raise NonFiniteError(f"{place}: NaN or infinity in {shown(bad)}")
