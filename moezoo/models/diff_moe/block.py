"""The block all stacks are made of: attention, then a mixture of general, global and modality experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from timm.layers import Attention, DropPath
from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.expert import expert_width, make_expert
from moezoo.moe import MoELayer, Routing
from moezoo.moe.checks import check_choice
from moezoo.moe.routers.attentive import AttentiveRouter

__all__ = ["AttentiveRouter", "UnifiedModalEncoder"]

MODALITIES = {"image": ("image",), "text": ("text",), "fusion": (), "mixed": ("image", "text")}
"""For each kind of block the modalities whose own experts it may have."""
Z_LOSSES = {"prob_sq": "prob_sq", "logsumexp": "router_z"}
BALANCE_LOSSES = {"kl": "kl_balance", "kl_counts": "kl_counts", "switch": "load_balancing"}
"""The configuration's words to the core's."""
Note: TypeAlias = Callable[[Routing], None]


class UnifiedModalEncoder(nn.Module):
    """``x = x + attention(norm1(x))``, then ``x = x + general(norm2(x)) + global(x) + modality(x)``.

    The global and modality experts have norms of their own. With ``config.dense`` one expert, as wide as all that a
    token uses, stands for the whole mixture.

    Args:
        config: The model's.
        kind: ``image`` or ``text``: all tokens are of this modality. ``fusion`` has no modality expert (the document's
            modality ids are 0, 1 and 0.5). ``mixed`` has both and goes by each token's type.
        drop_path: Stochastic depth of this block.
    """

    def __init__(self, config: DiffMoEConfig, kind: str = "image", *, drop_path: float = 0.0):
        super().__init__()
        dim, eps = config.embed_dim, config.layer_norm_eps
        wanted = MODALITIES[check_choice("kind", kind, MODALITIES)]
        built = ("image", "text")[: config.num_modality_specific_experts]
        own = [modality for modality in wanted if modality in built]
        self.kind = kind
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads=config.num_heads, qkv_bias=True, proj_drop=config.dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.dense = config.dense
        self.vision_expert = self.text_expert = None
        if config.dense:
            if kind == "mixed":
                raise ConfigError("dense=True knows no twin of a 'mixed' block: its tokens use unequal experts.")
            self.mlp = make_expert(config, config.top_k + 1 + len(own))
            return
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.general_experts = _general_experts(config)
        self.drop = nn.Dropout(config.dropout)
        self.global_expert = make_expert(config)
        if "image" in own:
            self.vision_expert = make_expert(config)
        if "text" in own:
            self.text_expert = make_expert(config)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        token_type: Tensor | None = None,
        note: Note | None = None,
    ) -> Tensor:
        """(B, L, D) to (B, L, D).

        Args:
            x: The tokens.
            mask: (B, L) bool, False for tokens that none may attend to.
            rows: (R,) the tokens, numbered through all samples, that the experts see; ``None`` means all. The others
                get attention's part alone.
            token_type: (B, L) int64, 0 for image tokens and 1 for text tokens; of a ``mixed`` block.
            note: Is told the routing.
        """
        keys = None if mask is None else _additive(mask, x)[:, None, None, :]
        x = x + self.drop_path(self.attn(self.norm1(x), attn_mask=keys))
        if rows is None:
            return x + self.drop_path(self._mixture(x, token_type, note))
        flat = x.flatten(0, 1)
        given = None if token_type is None else token_type.flatten()[rows]
        mixed = self._mixture(flat.index_select(0, rows), given, note)
        spread = mixed.new_zeros(flat.shape).index_copy(0, rows, mixed)
        return x + self.drop_path(spread.view(x.shape))

    def _mixture(self, x: Tensor, token_type: Tensor | None, note: Note | None) -> Tensor:
        if self.dense:
            return self.mlp(x)
        mixed = self.drop(self.general_experts(self.norm2(x), note=note)) + self.global_expert(x)
        if self.kind == "mixed":
            return self._by_type(x, mixed, token_type)
        own = self.vision_expert if self.vision_expert is not None else self.text_expert
        return mixed if own is None else mixed + own(x)

    def _by_type(self, x: Tensor, mixed: Tensor, token_type: Tensor | None) -> Tensor:
        if token_type is None:
            raise InputError("a 'mixed' block needs token_type=, 0 (image) or 1 (text) for every token")
        for number, expert in enumerate((self.vision_expert, self.text_expert)):
            if expert is not None:
                mixed = mixed + expert(x) * (token_type == number).to(x.dtype)[..., None]
        return mixed


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    """0 and -inf for True and False: what timm's attention takes in all its versions, fused or not."""
    return torch.zeros(mask.shape, dtype=like.dtype, device=like.device).masked_fill(~mask, -torch.inf)


def _general_experts(config: DiffMoEConfig) -> MoELayer:
    router_args = {"noise_std": config.router_noise, "dropout": config.router_dropout}
    return MoELayer(
        config.embed_dim,
        num_experts=config.num_general_experts,
        top_k=config.top_k,
        router=config.router,
        hidden_dim=expert_width(config),
        activation=config.activation,
        capacity_factor=config.capacity_factor,
        dropout=config.dropout,
        router_args={name: value for name, value in router_args.items() if value},
        aux_weights={
            Z_LOSSES[config.z_loss_type]: config.router_z_loss_weight,
            BALANCE_LOSSES[config.balance_loss_type]: config.router_balance_loss_weight,
        },
        layer_reduction=config.layer_reduction,
    )
