"""How slow a layer may be, as a multiple of the floor that does the same products; judged on a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

INFER = {8: 1.12, 32: 1.25, 64: 1.4}
"""Over the packed floor, by the most experts it holds for, at 1576 tokens or more."""
INFER_SMALL = {8: 1.45}
"""The same at 197 tokens, where every expert sees few rows of weights that are all read."""
TRAIN = {"float32": {8: 1.12, 32: 1.4, 64: 1.6}, "bfloat16": {8: 1.2, 32: 1.4, 64: 1.6}}
"""Over the eager floor, forward and backward, at 1576 tokens or more."""
VIT = {("infer", 8): 1.05, ("infer", 1): 1.2, ("train", 8): 1.08}
"""A whole ViT-S over its dense twin, by mode and batch size."""


def limit_of(cell: Mapping[str, Any]) -> tuple[str, float] | None:
    """The floor and the largest ratio to it that a measured cell may have; ``None`` where none is set."""
    work = cell["workload"]
    if work["tokens"] >= 1576:
        base, limits = ("packed floor", INFER) if cell["mode"] == "infer" else ("eager floor", TRAIN[cell["dtype"]])
    elif work["tokens"] == 197 and cell["mode"] == "infer":
        base, limits = "packed floor", INFER_SMALL
    else:
        return None
    return next(((base, most) for experts, most in limits.items() if work["num_experts"] <= experts), None)
