"""What surgery changed after a model was built: how many experts its adapters have."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError
from moezoo.moe.layer import MoELayer


def live_experts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """Each MoE layer's path with its number of experts and its ``top_k``, as they are now."""
    layers = {name: m for name, m in model.named_modules() if isinstance(m, MoELayer)}
    return {name: (layer.num_experts, layer.top_k) for name, layer in layers.items()}


def changed_experts(model: nn.Module, built: dict[str, tuple[int, int]]) -> dict[str, Any]:
    """The fields of the configuration that surgery changed since ``built``: a count, or one per injected block.

    Raises:
        ConfigError: Fields cannot say it, so that the model would be rebuilt with other shapes.
    """
    # Who reads which source is no field of a configuration: a stored model says it apart.
    apart = {name for name, m in model.named_modules() if isinstance(m, MoELayer) and m.experts.source_of is not None}
    live = {name: now for name, now in live_experts(model).items() if name not in apart}
    built = {name: then for name, then in built.items() if name not in apart}
    if live == built:
        return {}
    position = {
        f"{path}.{name}".removesuffix("."): adapter.site.position  # type: ignore[union-attr]
        for path, adapter in adapters_of(model).items()
        for name, part in adapter.named_modules()
        if isinstance(part, MoELayer)
    }
    top_ks = {top_k for _, top_k in live.values()}
    changed_k = any(live[name][1] != built[name][1] for name in live.keys() & built.keys())
    if not position and live.keys() == built.keys() and len(set(live.values())) == 1:
        count, top_k = next(iter(live.values()))
        return {"num_experts": count, **({"top_k": top_k} if changed_k else {})}
    one_each = len(set(position.values())) == len(position)
    if live.keys() != built.keys() or live.keys() != position.keys() or not one_each or (changed_k and len(top_ks) > 1):
        now = ", ".join(f"{name}: {count}" for name, (count, _) in live.items())
        raise ConfigError(f"the numbers of experts were changed to what no configuration can say ({now}).")
    counts = {position[name]: count for name, (count, _) in live.items()}
    fields: dict[str, Any] = {"num_experts": counts if len(set(counts.values())) > 1 else next(iter(counts.values()))}
    return {**fields, "top_k": top_ks.pop()} if changed_k else fields
