"""A tiny Diff-MoE, and images and texts for it."""

import torch

from moezoo.models.diff_moe import DiffMoEConfig, build

TINY = {
    "img_size": 8,
    "patch_size": 4,
    "embed_dim": 16,
    "num_heads": 2,
    "img_encoder_layers": 2,
    "text_encoder_layers": 2,
    "fusion_layers": 1,
    "num_classes": 3,
    "dropout": 0.0,
    "vocab_size": 30,
    "max_text_len": 8,
    "text_embed_dim": 6,
    "mlp_ratio": 1.0,
}


def tiny(seed=0, **changes):
    """Its weights are large enough for every part to show in the answer."""
    torch.manual_seed(seed)
    return build(DiffMoEConfig(**{"initializer_range": 0.3, **TINY, **changes}))


def batch(size=4, length=6, *, seed=1, channels=1, side=8):
    """Images, token ids and a mask under which every second text is shorter."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, channels, side, side, generator=generator)
    text = torch.randint(0, 30, (size, length), generator=generator)
    mask = torch.arange(length).expand(size, -1) < torch.tensor([length, length // 2]).repeat(size)[:size, None]
    return images, text, mask


def tensors(output):
    return {key: value for key, value in output.items() if isinstance(value, torch.Tensor)}


LOSSES = ["router_loss", "router_z_loss", "router_balance_loss", "cross_modal_loss", "contrastive_loss"]
"""Those that an output holds."""
