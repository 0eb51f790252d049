"""How evenly a model uses its experts."""

from __future__ import annotations

import torch

import moezoo

TINY = {
    "img_size": 16,
    "num_experts": 8,
    "mlp_ratio": 1.0,
    "router_z_weight": 0.0,
    "backbone_args": {"patch_size": 4, "depth": 3, "embed_dim": 64, "num_heads": 4},
}
"""Makes ``entity_moe_vit_tiny_patch16_224`` small enough to train in seconds."""
EVEN, UNEVEN = 0.93, 0.85
"""Load entropies that a balance loss reaches, and that training without one stays below."""


@torch.no_grad()
def load_entropy(model, batches):
    """Entropy of the experts' shares of the tokens over its maximum: 1 is even, 0 a single expert."""
    model.eval()
    with moezoo.record_routing(model) as records:
        for images in batches:
            model(images)
    counts = sum(record.routing.counts() for record in records).double()
    shares = counts / counts.sum()
    return float(torch.special.entr(shares).sum() / torch.tensor(float(len(shares))).log())
