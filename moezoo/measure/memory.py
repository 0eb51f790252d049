"""Memory of a forward pass: the peak of what is alive, and what is kept for the backward pass."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moezoo.measure.calling import call, device_of, fit_input, training
from moezoo.moe.modes import evaluating


@dataclass(frozen=True)
class Memory:
    """Bytes."""

    peak: int
    """The most that was alive at one time in an inference forward: weights, buffers, input, and intermediate
    results."""
    saved_for_backward: int
    """What a training forward keeps for its backward pass, parameters and buffers excluded, each storage
    once."""
    weights: int
    """Parameters and buffers, which are part of ``peak``."""


def memory(model: nn.Module, input: Any) -> Memory:
    """Run ``model`` twice, once in evaluation and once in training mode, and measure.

    On CUDA the peak is the allocator's (its peak statistic is reset). Elsewhere it is the sum of live tensor
    storages, which leaves out scratch memory inside operators; on the meta device it costs no memory. The
    model's modes, buffers and auxiliary losses are as before afterwards.

    Args:
        model: Any module, before ``torch.compile``.
        input: A tensor, a tuple of positional arguments, or a mapping of keyword arguments. It is moved to
            the model's device and floating-point type.
    """
    input = fit_input(model, input)
    state = [*model.parameters(), *model.buffers()]
    peak = peak_memory(model, input)
    with training(model), _saved_storages(state) as saved:
        output = call(model, input)
        kept = sum(storage.nbytes() for reference in saved.values() if (storage := reference()) is not None)
        del output
    return Memory(peak=peak, saved_for_backward=kept, weights=_bytes_of(state))


def peak_memory(model: nn.Module, input: Any) -> int:
    """``memory(model, input).peak`` alone: bytes alive at the worst moment of an inference forward."""
    input = fit_input(model, input)
    leaves = [leaf for leaf in tree_leaves(input) if isinstance(leaf, Tensor)]
    resident = [*model.parameters(), *model.buffers(), *leaves]
    with evaluating(model):
        if device_of(model, input).type == "cuda":
            return _allocator_peak(model, input) + _bytes_of(resident)
        with _LiveBytes(resident) as live:
            call(model, input)
        return live.peak


class _LiveBytes(TorchDispatchMode):
    """Sums the storages that operators return until nobody holds them any more."""

    def __init__(self, resident: Iterable[Tensor]):
        super().__init__()
        self._alive: dict[int, weakref.ref] = {}
        self.current = self.peak = 0
        for tensor in resident:
            self._see(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        if storage is None or storage._cdata in self._alive:
            return
        key, size = storage._cdata, storage.nbytes()

        def died(_reference: weakref.ref) -> None:
            del self._alive[key]
            self.current -= size

        self._alive[key] = weakref.ref(storage, died)
        self.current += size
        self.peak = max(self.peak, self.current)


@contextmanager
def _saved_storages(excluded: Iterable[Tensor]) -> Iterator[dict[int, weakref.ref]]:
    """Storages of the tensors autograd saves while this is open, by identity."""
    skip = {storage._cdata for tensor in excluded if (storage := _storage(tensor)) is not None}
    saved: dict[int, weakref.ref] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = _storage(tensor)
        if storage is not None and storage._cdata not in skip:
            saved[storage._cdata] = weakref.ref(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield saved


def _allocator_peak(model: nn.Module, input: Any) -> int:
    device = device_of(model, input)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call(model, input)
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    storages = {s._cdata: s.nbytes() for tensor in tensors if (s := _storage(tensor)) is not None}
    return sum(storages.values())


def _storage(tensor: Tensor) -> Any:
    try:
        return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):  # sparse and other tensors without one storage
        return None
