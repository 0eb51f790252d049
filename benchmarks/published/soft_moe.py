"""Soft MoE: Puigcerver et al. 2023, "From Sparse to Soft Mixtures of Experts", arXiv 2308.00951, table 8.

Heads are JFT-4B's, of 29,593 classes; every expert has one slot; FLOPs are those of images of 224 x 224. The paper
counts 0.3 % more FLOPs than we do of plain ViTs already, which is what norms, GELU and softmax cost: we count products.
"""

from __future__ import annotations

from published.row import Row

TABLE_8 = "2308.00951, table 8"
JFT_4B = 29_593
ROUNDED = "the paper prints two digits"
ELEMENTWISE = "the paper's FLOPs are 0.3 % above ours for the plain ViT too, and printed to a tenth"


def _vit(size: str, parameters: float, gflops: float, note: str = "") -> Row:
    options = {"num_classes": JFT_4B, "moe_layers": ()}
    return Row(f"ViT {size}", _name(size), TABLE_8, parameters, gflops, options=options, note=note)


def _soft(size: str, experts: int, parameters: float, gflops: float, note: str = "") -> Row:
    options = {"num_classes": JFT_4B, "num_experts": experts}
    return Row(f"Soft MoE {size} {experts}E", _name(size), TABLE_8, parameters, gflops, options=options, note=note)


def _name(size: str) -> str:
    return f"soft_moe/{size.lower().replace('/', '')}"


ROWS = [
    _vit("S/16", 33, 9.2),
    _soft("S/16", 128, 933, 8.6, ELEMENTWISE),
    _soft("S/14", 256, 1800, 13.2, f"{ROUNDED}; {ELEMENTWISE}"),
    _vit("B/16", 108, 35.1, "the paper cuts its digits"),
    _soft("B/16", 128, 3700, 32.0, ELEMENTWISE),
    _vit("L/16", 333, 122.9),
    _soft("L/16", 128, 13_100, 111.1),
    _vit("H/14", 669, 334.2),
    _soft("H/14", 128, 27_300, 284.6),
    _soft("H/14", 256, 54_100, 342.4),
]
