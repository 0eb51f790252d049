"""A model's tensors as a safetensors file takes them: dense, contiguous, finite, none sharing memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
    """``model.state_dict()`` on the CPU, each tensor with memory of its own, keys free of compile wrappers.

    Tied tensors are written under each of their names, so that a reader needs no knowledge of the ties.

    Raises:
        InputError: An entry is not a plain dense tensor with data (extra state, sparse, sharded or meta
            tensors).
    """
    state: dict[str, Tensor] = {}
    owned: set[int] = set()
    foreign = []
    for key, value in unwrapped(model).state_dict().items():
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
        state[key.replace("_orig_mod.", "")] = tensor
    if foreign:
        raise InputError(f"only plain dense tensors can be saved; the model's state also holds {shown(foreign)}")
    return state


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
