"""V-MoE: Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts", arXiv 2106.05974, appendix.

Parameters are those of table 7, FLOPs those of table 9, in percent of ViT-H/14's: with buffers full, as the paper's
experts compute them whether or not tokens took the room; ours compute the tokens alone, up to 4 % less. All heads are
JFT-300M's, of 18,291 classes, behind the layer with tanh; all MoE layers have 32 experts, of which a token has two.

The paper's own tables were not at hand. Most figures are those that a public summary of the paper quotes from them;
the rounded ones of its main table agree, as Papers with Code lists them (656 M, 3.4 B, 2.7 B and 7.2 B). Four of Last-2
are from memory. Every row's source says which.
"""

from __future__ import annotations

from typing import Any

from published.row import Row

QUOTED = "2106.05974, table 7, as a summary of it quotes"
QUOTED_9 = "2106.05974, tables 7 and 9, as a summary of it quotes"
RECALLED = "2106.05974, table 7, from memory, not verified"
UNKNOWN = "no published figure at hand"
RECALLED_9 = "2106.05974: parameters (table 7) from memory, not verified; FLOPs (table 9) as a summary of it quotes"
JFT_300M = 18_291
NAMES = {"every2": "Every-2", "last2": "Last-2", "last5": "Last-5"}


def _vit(size: str, parameters: float) -> Row:
    options = {"num_classes": JFT_300M, "moe_layers": ()}
    return Row(f"ViT-{size}", _name(size), QUOTED, parameters, options=options)


def _vmoe(size: str, where: str, parameters: float | None, share: float | None = None, source: str = QUOTED) -> Row:
    more: dict[str, Any] = {"share": share, "baseline": HUGE} if share else {}
    options = {"num_classes": JFT_300M, "moe_layers": where}
    return Row(f"V-MoE-{size}, {NAMES[where]}", _name(size), source, parameters, options=options, **more)


def _name(size: str) -> str:
    return f"vmoe/{size.lower().replace('/', '')}"


HUGE = _vit("H/14", 655.8)
ROWS = [
    _vit("S/32", 36.5),
    _vmoe("S/32", "last2", 166.7, source=RECALLED),
    _vmoe("S/32", "every2", 296.9),
    _vit("B/32", 102.1),
    _vmoe("B/32", "last2", 395.0, source=RECALLED),
    _vmoe("B/32", "every2", 980.6),
    _vit("B/16", 100.5),
    _vmoe("B/16", "last2", 393.3, source=RECALLED),
    _vmoe("B/16", "every2", 979.0),
    _vit("L/32", 325.3),
    _vmoe("L/32", "last2", 845.8),
    _vmoe("L/32", "every2", None, source=UNKNOWN),
    _vit("L/16", 323.1),
    _vmoe("L/16", "last2", 843.6, share=39.02, source=RECALLED_9),
    _vmoe("L/16", "every2", 3446.0),
    HUGE,
    _vmoe("H/14", "last5", 2688.6, share=111.0, source=QUOTED_9),
    _vmoe("H/14", "every2", 7160.8, share=136.0, source=QUOTED_9),
]
