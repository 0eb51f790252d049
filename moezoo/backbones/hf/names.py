"""Names of transformers backbones, ``hf:user/repo``, and the sizes of those that are built without the network.

No torch here.
"""

from __future__ import annotations

import re
from typing import Any

from moezoo.names import HUB_BACKBONE

_REPO = re.compile(r"[\w.\-]+/[\w.\-]+")


def _sam(hidden_size: int, num_hidden_layers: int, num_attention_heads: int) -> dict[str, Any]:
    """The published encoders attend globally in the last layer of each quarter and in windows elsewhere."""
    quarter = num_hidden_layers // 4
    vision = {
        "hidden_size": hidden_size,
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": num_attention_heads,
        "mlp_dim": 4 * hidden_size,
        "global_attn_indexes": [quarter * (i + 1) - 1 for i in range(4)],
    }
    return {"model_type": "sam", "vision_config": vision}


KNOWN: dict[str, dict[str, Any]] = {
    "hf:facebook/sam-vit-base": _sam(768, 12, 12),
    "hf:facebook/sam-vit-large": _sam(1024, 24, 16),
    "hf:facebook/sam-vit-huge": _sam(1280, 32, 16),
}
"""Configurations of the models that have presets (Kirillov et al. 2023, "Segment Anything", section A)."""


def is_hf(name: str) -> bool:
    """Whether ``name`` is ``hf:user/repo``."""
    return name.startswith(HUB_BACKBONE) and _REPO.fullmatch(repo_id(name)) is not None


def repo_id(name: str) -> str:
    """``user/repo`` of ``hf:user/repo``."""
    return name.removeprefix(HUB_BACKBONE)
