"""Attention routing: spend the big MLP only on the cells of an image that matter.

A light encoder scores the cells of a grid. Those above a learned threshold are cropped from the image for a big MLP,
the others meet a small one; an aggregator and a task head answer.
"""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "AttentionRoutingConfig": ".config",
    "Encoder": ".encoder",
    "AttentionHead": ".attention",
    "crop_cells": ".patches",
    "CellMLP": ".experts",
    "Aggregator": ".aggregators",
    "register_aggregator": ".aggregators",
    "FullCompute": ".baselines",
    "CheapCompute": ".baselines",
    "NoRouting": ".baselines",
    "TaskHead": ".head",
    "AttentionRouting": ".network",
    "AttentionRoutingOutput": ".output",
    "build": ".model",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
