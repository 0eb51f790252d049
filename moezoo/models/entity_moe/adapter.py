"""The EntityMoE adapter: objects → experts → attention among the objects → FFN → zero-initialised residual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from timm.layers import Attention, GluMlp, Mlp
from timm.models._features_fx import register_notrace_module
from torch import Tensor, nn

from moezoo.backbones.hf.encoder import is_transformers
from moezoo.backbones.inject import AdapterKind
from moezoo.backbones.site import Site
from moezoo.errors import ConfigError
from moezoo.models.entity_moe.config import EntityAdapterConfig
from moezoo.models.entity_moe.entities import build_entities
from moezoo.moe import MoELayer


@register_notrace_module
class EntityAdapter(nn.Module):
    """Adds to a block's features what its objects learn from experts and from each other.

    ``h = norm(x)``; ``o = objects(h)``; ``o = o + MoE(o)``; ``o = o + attention(norm(o))``; ``x + FFN(norm(o))``, the
    last layer of the FFN starting at zero, so that the model starts as the backbone, bit for bit.

    Args:
        site: Where it stands; gives the width and the layout of the features.
        config: The adapter's configuration.
        num_experts: Experts of this adapter (``config.num_experts`` may differ by place).
    """

    def __init__(self, site: Site, config: EntityAdapterConfig, num_experts: int):
        super().__init__()
        dim = site.dim
        expert_dim = config.expert_dim or max(1, int(dim * config.mlp_ratio))
        self.site = site
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.entities = build_entities(config, site)
        self.moe = _dense_twin(dim, expert_dim, config) if config.dense else _moe(dim, expert_dim, config, num_experts)
        self.attn_norm = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, num_heads=_heads(dim, config.num_heads), qkv_bias=True, proj_drop=config.dropout)
        self.ffn_norm = nn.LayerNorm(dim, eps=1e-6)
        self.ffn = Mlp(dim, max(1, int(dim * config.mlp_ratio)), drop=config.dropout)
        for parameter in self.ffn.fc2.parameters():
            nn.init.zeros_(parameter)

    def forward(self, feature: Tensor) -> Tensor:
        """The block's features in their own layout, changed."""
        tokens = self.norm(self.site.tokens(feature))
        objects, spread = self.entities(tokens, self.site.grid_of(feature.shape))
        objects = objects + self.moe(objects)
        objects = objects + self.attn(self.attn_norm(objects))
        delta = self.ffn(self.ffn_norm(spread(objects)))
        return feature + self.site.like_feature(delta, feature).to(feature.dtype)

    def token_geometry(self, shape: Sequence[int]) -> tuple[tuple[int, int] | None, int]:
        """(rows, columns) and prefix tokens of the objects that features of ``shape`` become, for recording."""
        return self.entities.geometry(self.site.grid_of(shape))


def _moe(dim: int, expert_dim: int, config: EntityAdapterConfig, num_experts: int) -> MoELayer:
    router_args = {"noise_std": config.router_noise, "jitter": config.router_jitter}
    return MoELayer(
        dim,
        num_experts=num_experts,
        top_k=config.expert_k,
        router=config.router,
        expert=config.expert,
        hidden_dim=expert_dim,
        activation=config.activation,
        num_shared_experts=config.num_experts_shared,
        normalize=config.normalize,
        capacity_factor=config.capacity_factor,
        dropout=config.dropout,
        router_args={name: value for name, value in router_args.items() if value},
        aux_weights={
            "load_balancing": config.load_balance_weight,
            "router_z": config.router_z_weight,
            "importance": config.importance_weight,
        },
    )


def _dense_twin(dim: int, expert_dim: int, config: EntityAdapterConfig) -> nn.Module:
    """One always-on MLP as wide as what a token uses of the MoE: k routed and all shared experts."""
    width = expert_dim * (config.expert_k + config.num_experts_shared)
    act = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}[config.activation]
    if config.expert == "mlp":
        return Mlp(dim, width, act_layer=act, drop=config.dropout)
    if config.expert == "glu":
        return GluMlp(dim, 2 * width, act_layer=act, drop=config.dropout, gate_last=False)
    raise ConfigError(f"dense=True knows no twin of expert={config.expert!r}; it does of mlp and glu.")


def _heads(dim: int, num_heads: int | None) -> int:
    if num_heads is None:
        return next(h for h in range(max(1, dim // 64), 0, -1) if dim % h == 0)
    if dim % num_heads:
        raise ConfigError(f"num_heads={num_heads} is not allowed: it must divide the block's width {dim}.")
    return num_heads


def _build(config: EntityAdapterConfig, site: Site, i: int) -> EntityAdapter:
    return EntityAdapter(site, config, experts_at(config, site, i))


def experts_at(config: EntityAdapterConfig, site: Site, i: int) -> int:
    """How many experts the i-th injected block has."""
    counts = config.num_experts
    if isinstance(counts, dict):
        return counts[site.position]
    return counts if isinstance(counts, int) else counts[i]


def _check(config: EntityAdapterConfig, sites: Sequence[Site]) -> None:
    counts, positions = config.num_experts, [s.position for s in sites]
    if isinstance(counts, tuple) and len(counts) != len(sites):
        raise ConfigError(
            f"num_experts={list(counts)} has {len(counts)} counts for {len(sites)} injected blocks {positions}."
        )
    if isinstance(counts, dict) and set(counts) != set(positions):
        raise ConfigError(f"num_experts={counts} must name exactly the injected blocks {positions}.")


def _annotate(model: nn.Module, config: EntityAdapterConfig, sites: Sequence[Site]) -> None:
    """The documented ``model.entity_moe_config``: what was injected, not what was asked for."""
    name, family = base_model(model)
    counts = [experts_at(config, site, i) for i, site in enumerate(sites)]
    model.entity_moe_config = {  # type: ignore[assignment]
        "model_type": family,
        "base_model": name,
        "inject_layers": [_place(site, family) for site in sites],
        "num_experts": counts[0] if len(set(counts)) == 1 else counts,
        "num_experts_shared": config.num_experts_shared,
        "expert_k": config.expert_k,
    }


def base_model(model: nn.Module) -> tuple[str, str]:
    """The backbone's name and the kind of model it is, in the words of the library it comes from."""
    if is_transformers(model):
        config: Any = model.config
        return config.name_or_path or type(model).__name__, config.model_type.removesuffix("_vision_model")
    name = str(getattr(model, "pretrained_cfg", {}).get("architecture", "") or type(model).__name__)
    return name, next((f for f in ("vit", "swin", "resnet") if name.startswith(f)), name.split("_")[0])


def _place(site: Site, family: str) -> Any:
    block = site.block
    if block.stage < 0:
        return block.name
    if block.stage_name.startswith("layer") and family == "resnet":
        return (block.stage_name, block.index)
    return site.position if block.alone else (block.stage, block.index)


ENTITY = AdapterKind("entity_moe", EntityAdapterConfig, _build, _check, _annotate, family="entity_moe")
