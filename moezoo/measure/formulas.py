"""FLOP formulas for operators that some releases of torch's counter take for free."""

from __future__ import annotations

import math
from typing import Any

import torch

Shape = tuple[int, ...]


def attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Both products of attention: (…, N, d) with (…, S, d), and (…, N, S) with (…, S, v)."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def matrix_vector_flops(matrix: Shape, *_: Any, **__: Any) -> int:
    """(M, N) times (N,), or (N,) times (N,)."""
    return 2 * math.prod(matrix)


def add_matrix_vector_flops(_bias: Shape, matrix: Shape, *_: Any, **__: Any) -> int:
    """(M,) plus (M, N) times (N,)."""
    return 2 * math.prod(matrix)


def matrix_matrix_flops(left: Shape, right: Shape, *_: Any, **__: Any) -> int:
    """(M, K) times (K, N)."""
    return 2 * math.prod(left) * right[-1]


aten = torch.ops.aten

FORMULAS = {
    aten._scaled_dot_product_flash_attention_for_cpu: attention_flops,
    aten._scaled_dot_product_fused_attention_overrideable: attention_flops,
    aten._int_mm: matrix_matrix_flops,
    aten.mv: matrix_vector_flops,
    aten.dot: matrix_vector_flops,
    aten.addmv: add_matrix_vector_flops,
}
"""For ``FlopCounterMode(custom_mapping=…)``, beside :data:`moezoo.moe.flops.FLOP_FORMULAS`."""
