"""The weights of experts in the layout that oneDNN computes in, reordered once and kept beside the parameters.

The kept copies are as large as the weights themselves; :func:`packed_bytes` says how large they are, and
:func:`set_packing` turns them off. They follow every change of a weight that torch counts (optimisers, ``copy_``,
``load_state_dict``). A write through ``weight.data`` or NumPy is not counted: call :func:`repack` after it.
"""

from __future__ import annotations

import weakref

import torch
from torch import Tensor, nn


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
        self.nbytes = 0
        self._dtype: torch.dtype | None = None
        self._seen: list[_Seen] = []
        self._packed: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []

    def get(self, weights: tuple[Tensor, ...], dtype: torch.dtype) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each expert ``w_in, b_in, w_out, b_out`` in ``dtype``, the matrices reordered."""
        if dtype != self._dtype or not all(map(_Seen.same, self._seen, weights)):
            self.drop()
            w_in, b_in, w_out, b_out = (w.detach().to(dtype) for w in weights)
            self._packed = [
                (_reorder(w_in[e]), b_in[e].clone(), _reorder(w_out[e]), b_out[e].clone()) for e in range(len(w_in))
            ]
            self.nbytes = sum(w.numel() * dtype.itemsize for w in weights)
            self._dtype, self._seen = dtype, [_Seen(w) for w in weights]
        return self._packed

    def drop(self) -> None:
        """Free the copies."""
        self._dtype, self._seen, self._packed, self.nbytes = None, [], [], 0

    def __getstate__(self) -> dict:
        fresh = PackCache()
        fresh.on = self.on
        return fresh.__dict__


def packed_bytes(model: nn.Module) -> int:
    """Bytes of the second copies of expert weights that ``model`` holds now for inference on a CPU."""
    return sum(cache.nbytes for cache in _caches(model))


def set_packing(model: nn.Module, on: bool) -> None:
    """Allow (the default) or forbid second copies of the expert weights; forbidding frees them."""
    for cache in _caches(model):
        cache.on = bool(on)
        if not on:
            cache.drop()


def repack(model: nn.Module) -> None:
    """Forget the copies, so that the next call makes them anew: for after writes that torch does not count."""
    for cache in _caches(model):
        cache.drop()


def _caches(model: nn.Module) -> list[PackCache]:
    return [cache for module in model.modules() if isinstance(cache := getattr(module, "packs", None), PackCache)]


class _Seen:
    """A weight as it was when it was packed."""

    def __init__(self, weight: Tensor):
        # The reference tells a new parameter from one whose memory it was given.
        self.weight, self.address, self.version = weakref.ref(weight), weight.data_ptr(), weight._version

    def same(self, weight: Tensor) -> bool:
        return self.weight() is weight and (self.address, self.version) == (weight.data_ptr(), weight._version)


def _reorder(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
