"""Launching a kernel: on the device of its tensors, and without Triton's own look at every argument each time.

That look takes longer than small kernels run. Here what a kernel was compiled for is remembered by the few facts that
it depends on: types, whether addresses are aligned, and all numbers but those that the kernel says it is not
specialized for (``do_not_specialize``).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

_COMPILED: dict[tuple[Any, ...], Any] = {}
_VARIES: dict[int, frozenset[int]] = {}
"""Of a kernel the places of the arguments that it is not specialized for."""
ALIGNED = 16
"""Bytes: what Triton tells aligned addresses by."""


def launch(kernel: Any, grid: tuple[int, ...], *args: Any, **options: Any) -> None:
    """Run ``kernel`` on ``grid``; the first argument is a tensor, and all tensors are on its device."""
    if torch.compiler.is_compiling() or not args[0].is_cuda:
        kernel[grid](*args, **options)
    elif args[0].device.index == torch.cuda.current_device():
        _launch(kernel, grid, args, options)
    else:
        with torch.cuda.device(args[0].device):
            _launch(kernel, grid, args, options)


def blocks_of(size: int, count: int) -> int:
    """How many blocks of ``size`` hold ``count``."""
    return -(-count // size)


def _launch(kernel: Any, grid: tuple[int, ...], args: tuple[Any, ...], options: dict[str, int]) -> None:
    key = facts(kernel, args, options)
    compiled = _COMPILED.get(key)
    if compiled is None:
        compiled = kernel[grid](*args, **options)  # launched too
        if compiled is not None:
            _COMPILED[key] = compiled
    else:
        compiled[(*grid, 1, 1)[:3]](*args)


def facts(kernel: Any, args: tuple[Any, ...], options: dict[str, int]) -> tuple[Any, ...]:
    """What a compiled kernel depends on."""
    varies = _VARIES.get(id(kernel))
    if varies is None:
        varies = frozenset(i for i, p in enumerate(kernel.params) if p.do_not_specialize)
        _VARIES[id(kernel)] = varies
    found: list[Any] = [id(kernel), args[0].device.index, *options.values()]
    for i, arg in enumerate(args):
        if isinstance(arg, Tensor):
            found.append(arg.dtype)
            found.append(arg.data_ptr() % ALIGNED == 0)
        elif i not in varies:
            found.append(arg)
    return tuple(found)
