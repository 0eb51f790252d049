"""Mobile V-MoE: Daxberger et al. 2023, "Mobile V-MoEs: Scaling Down Vision Transformers", arXiv 2309.04354.

The text says of the ViT-Tiny (12 x 192) with 10 experts in 2 layers that an image may activate up to all 11.05 million
parameters where tokens are routed, and 6.31 million by the method proposed, which is two experts of each layer; and of
the smallest model that it takes 54 million FLOPs, there multiply-adds. 3 layers of width 64 is our reading of that one.
"""

from __future__ import annotations

from published.row import Row

SECTION_3, ABSTRACT = "2309.04354, section 3", "2309.04354, abstract"

ROWS = [
    Row("Mobile V-MoE 12 x 192, k = 2", "mobile_vmoe/12x192.top2", SECTION_3, 11.05, active=6.31),
    Row(
        "Mobile V-MoE, 54 M FLOPs",
        "mobile_vmoe/3x64",
        ABSTRACT,
        gflops=2 * 0.054,
        note="printed as 54 M; the paper's layers and width of it are our reading",
    ),
]
