"""Swin-MoE: Hwang et al. 2022, "Tutel: Adaptive Mixture-of-Experts at Scale", arXiv 2206.03382, tables 11 and 12.

Heads are ImageNet-22K's, of 21,841 classes; images are 192 x 192. The paper's GFLOPs are multiply-adds, here counted
as 2 each, at capacity factor 1.0, where experts have room for an even share and no more. The models there compute
position biases by a small network of 1,536 + 512 H parameters per block of H heads, timm's Swin has a table of them;
and the second layers of MLPs there have no bias.
"""

from __future__ import annotations

from typing import Any

from published.row import Row

TABLE_11, TABLES = "2206.03382, table 11", "2206.03382, tables 11 and 12"
IMAGENET_22K = 21_841


def _row(size: str, variant: str, paper: str, parameters: float, active: float, gmacs: float, **more: Any) -> Row:
    options = {"num_classes": IMAGENET_22K}
    return Row(
        f"SwinV2-{paper}",
        f"swin_moe/{size}.{variant}",
        more.pop("source", TABLE_11),
        parameters,
        2 * gmacs,
        active=active,
        options=options,
        **more,
    )


ROWS = [
    _row("small", "dense", "S", 65.8, 65.8, 6.76),
    _row("small", "e8", "MoE-S, E = 8", 173.3, 65.8, 6.76),
    _row("small", "e16", "MoE-S, E = 16", 296.1, 65.8, 6.76),
    _row("small", "e32", "MoE-S, E = 32", 541.8, 65.8, 6.76),
    _row("small", "e64", "MoE-S, E = 64", 1033, 65.8, 6.76),
    _row(
        "small",
        "e128",
        "MoE-S, E = 128",
        2016,
        65.8,
        6.76,
        note="the paper leaves out the routers, here of 0.5 M parameters",
    ),
    _row("base", "dense", "B", 109.3, 109.3, 11.78),
    _row("base", "e8", "MoE-B, E = 8", 300.3, 109.3, 11.78),
    _row("base", "e16", "MoE-B, E = 16", 518.7, 109.3, 11.78),
    _row("base", "e32", "MoE-B, E = 32", 955.3, 109.3, 11.78),
    _row(
        "base",
        "e32_top2",
        "MoE-B, E = 32, k = 2",
        955.3,
        136.6,
        14.80,
        source=TABLES,
        note="FLOPs are table 12's; table 11 has those of k = 1 in this line",
    ),
]
