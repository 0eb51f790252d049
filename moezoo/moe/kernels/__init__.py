"""Kernels for GPUs, in Triton: what stands around the grouped products, each in one pass over memory.

Triton comes with torch where it supports the device; without it, and on other devices, plain operations do the same.
"""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels compute these: plain tensors of :data:`DTYPES` on a CUDA device that Triton compiles for."""
    return all(t.is_cuda and t.dtype in DTYPES for t in tensors) and compiles(tensors[0].device)


@torch.compiler.assume_constant_result
@functools.cache
def compiles(device: torch.device) -> bool:
    """Whether Triton is there and compiles for the CUDA ``device``."""
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)
