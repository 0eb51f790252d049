"""The weights of experts and MLP gates in the layout that oneDNN computes in, reordered once and kept beside them.

The kept copies are as large as the weights themselves; :func:`packed_bytes` says how large they are, and
:func:`set_packing` turns them off. They follow every change of a weight that torch counts (optimisers, ``copy_``,
``load_state_dict``). A write through ``weight.data`` or NumPy is not counted: call :func:`repack` after it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.paths.products import infers

Stacks = tuple[Tensor, ...]
"""Weights of all experts, an expert's on the first axis."""


def can_pack(device: torch.device, dtype: torch.dtype, weights: tuple[Tensor, ...]) -> bool:
    """Whether oneDNN has packed products here, and the weights are such that their changes can be seen."""
    if device.type != "cpu" or not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return False
    if dtype == torch.bfloat16:
        supported = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    elif dtype == torch.float16:
        supported = torch.ops.mkldnn._is_mkldnn_fp16_supported()
    else:
        supported = dtype == torch.float32
    return supported and all(type(w) is nn.Parameter and not w.is_inference() for w in weights)


class PackCache:
    """The reordered weights of one stack of experts, made when first asked for. Copies and pickles start empty."""

    def __init__(self) -> None:
        self.on = True
        self._packed: tuple[_Packed, ...] = ()

    @property
    def nbytes(self) -> int:
        """Of the copies held now."""
        return sum(packed.nbytes for packed in self._packed)

    def get(
        self, weights: Stacks, dtype: torch.dtype, arranged: Callable[[Stacks], Stacks] = lambda stacks: stacks
    ) -> list[tuple[Tensor, ...]] | None:
        """Of each expert its share of ``weights``, which are stacks, in ``dtype``, the matrices reordered.

        ``None`` where there can be no copies. ``arranged`` is what a cache always does to the stacks first, such as
        joining matrices that read the same rows.
        """
        # Other threads may do the same: they read and replace the whole, never a part.
        held = self._packed
        for packed in held:
            if packed.dtype == dtype and packed.is_of(weights):
                return packed.experts
        if not can_pack(weights[0].device, dtype, weights):
            return None
        made = _Packed(weights, dtype, arranged)
        self._packed = (*(packed for packed in held if packed.is_of(weights)), made)
        return made.experts

    def drop(self) -> None:
        """Free the copies."""
        self._packed = ()

    def __getstate__(self) -> dict:
        fresh = PackCache()
        fresh.on = self.on
        return fresh.__dict__


class KeepsPacks(nn.Module):
    """A module with a :class:`PackCache`, freed by what changes the weights, or says that they will change."""

    if TYPE_CHECKING:  # TorchScript reads annotations, and would stumble over this one with an error of its own
        packs: PackCache

    def may_pack(self, x: Tensor, weight: Tensor) -> bool:
        """Whether inference on ``x`` may go by a reordered copy of ``weight``, if that allows it."""
        return not self.training and self.packs.on and infers(x, weight)

    def train(self, mode: bool = True):
        if mode:
            self.packs.drop()
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        self.packs.drop()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args, **kwargs):
        self.packs.drop()
        super()._load_from_state_dict(*args, **kwargs)


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the second copies of expert weights that ``model`` holds now for inference on a CPU."""
    return sum(cache.nbytes for cache in _caches(model))


def set_packing(model: nn.Module, on: bool) -> None:
    """Allow (the default) or forbid second copies of the expert weights; forbidding frees them.

    Raises:
        ConfigError: ``on`` is neither ``True`` nor ``False``.
    """
    if not isinstance(on, bool):
        raise ConfigError(f"on={on!r} is not allowed: it must be True or False.")
    for cache in _caches(model):
        cache.on = on
        if not on:
            cache.drop()


def repack(model: nn.Module) -> None:
    """Forget the copies, so that the next call makes them anew: for after writes that torch does not count."""
    for cache in _caches(model):
        cache.drop()


def _caches(model: nn.Module) -> list[PackCache]:
    return [cache for module in model.modules() if isinstance(cache := getattr(module, "packs", None), PackCache)]


class _Packed:
    """The weights as they were, reordered, in one dtype."""

    def __init__(self, weights: Stacks, dtype: torch.dtype, arranged: Callable[[Stacks], Stacks]):
        # The reference tells a new parameter from one whose memory it was given.
        self._seen = [(weakref.ref(w), w.data_ptr(), w._version) for w in weights]
        self.dtype = dtype
        self.nbytes = sum(w.numel() * dtype.itemsize for w in weights)
        stacks = arranged(tuple(w.detach().to(dtype) for w in weights))
        self.experts = [
            tuple(_reorder(w[e]) if w.dim() > 2 else w[e].clone() for w in stacks) for e in range(len(stacks[0]))
        ]

    def is_of(self, weights: Stacks) -> bool:
        """Whether these are the weights, unchanged since."""
        for (weight, address, version), w in zip(self._seen, weights, strict=True):
            if weight() is not w or version != w._version or address != w.data_ptr():
                return False
        return True


def _reorder(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
