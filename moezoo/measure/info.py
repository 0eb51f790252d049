"""``print_model_info``: what was injected, in the documented format, and what it costs."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.altered.weights import int8_numbers
from moezoo.backbones.inject import adapters_of
from moezoo.config import to_dict
from moezoo.moe.layer import MoELayer

RULE = "=" * 60


def model_info(model: nn.Module, *, verbose: bool = False) -> str:
    """The text that :func:`print_model_info` prints."""
    noted = (getattr(module, "entity_moe_config", None) for module in model.modules())
    config: dict[str, Any] | None = next((config for config in noted if config is not None), None)
    # SAM's configuration sits on its encoder, which the title says.
    suffix = " (Vision Encoder)" if str((config or {}).get("model_type", "")).startswith("sam") else ""
    lines = [RULE, f"EntityMoE Configuration{suffix}", RULE]
    if config is None and (own := getattr(model, "moezoo_config", None)) is not None:
        lines[1] = f"{getattr(model, 'moezoo_name', type(model).__name__)} configuration"
        lines += [f"{key}: {value}" for key, value in to_dict(own).items()]
    elif config is None:
        lines.append("No EntityMoE configuration found.")
    else:
        lines += [f"{key}: {value}" for key, value in {**config, **_experts_now(model)}.items()]
    if verbose:
        lines += [RULE, *model_costs(model)]
    return "\n".join([*lines, RULE])


def print_model_info(model: nn.Module, *, verbose: bool = False) -> None:
    """Print the model's EntityMoE configuration; with ``verbose`` also what each adapter adds in parameters.

    Args:
        model: Any model; of one that moezoo built without adapters it is that model's, any other says so.
        verbose: Add parameter counts: total, active (used by one token), added by each adapter.
    """
    print(model_info(model, verbose=verbose))


def _experts_now(model: nn.Module) -> dict[str, Any]:
    """The number of experts, which surgery may have changed since they were injected."""
    parts = [part for adapter in adapters_of(model).values() for part in adapter.modules()]
    counts = [part.num_experts for part in parts if isinstance(part, MoELayer)]
    return {"num_experts": counts[0] if len(set(counts)) == 1 else counts} if counts else {}


def model_costs(model: nn.Module) -> list[str]:
    """Lines that say how many parameters there are, and which of them adapters added."""
    total = _count(model)
    inactive = sum(m.inactive_parameters() for m in model.modules() if isinstance(m, MoELayer))
    added = adapters_of(model)
    lines = [f"parameters: {total:,} total, {total - inactive:,} active per token"]
    if added:
        sum_added = sum(map(_count, added.values()))
        lines.append(
            f"added by adapters: {sum_added:,} (+{sum_added / max(total - sum_added, 1):.1%} of the backbone's)"
        )
        lines += [f"  {name}: {_count(adapter):,}" for name, adapter in added.items()]
    return lines


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters()) + int8_numbers(module)
