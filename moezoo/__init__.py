"""moezoo: vision Mixture-of-Experts, created by name.

Everything below is imported when it is first used, so that ``import moezoo`` costs nothing and never imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "list_models": "moezoo.registry",
    "list_pretrained": "moezoo.registry",
    "is_model": "moezoo.registry",
    "is_model_pretrained": "moezoo.registry",
    "model_entrypoint": "moezoo.registry",
    "model_config": "moezoo.registry",
    "register_model": "moezoo.registry",
    "register_dataset": "moezoo.data",
    "register_metric": "moezoo.eval.metrics",
    "register_aggregator": "moezoo.models.attention_routing.aggregators",
    "register_router": "moezoo.moe.routers",
    "register_experts": "moezoo.moe.experts",
    "create_model": "moezoo.factory",
    "get_pretrained_cfg": "moezoo.factory",
    "inject_moe": "moezoo.backbones.inject",
    "upcycle": "moezoo.backbones.upcycle",
    "aux_loss": "moezoo.moe.aux",
    "collect_aux": "moezoo.moe.aux",
    "set_budget": "moezoo.moe.dial",
    "set_threshold": "moezoo.moe.dial",
    "record_routing": "moezoo.moe.record",
    "freeze_backbone": "moezoo.backbones.params",
    "param_groups": "moezoo.backbones.params",
    "save_pretrained": "moezoo.hub.save",
    "push_to_hub": "moezoo.hub.push",
    "print_model_info": "moezoo.measure.info",
}
_SUBPACKAGES = (
    "moe",
    "backbones",
    "models",
    "hub",
    "data",
    "train",
    "ablate",
    "federated",
    "eval",
    "measure",
    "export",
    "compress",
    "search",
    "viz",
    "errors",
    "config",
)

if TYPE_CHECKING:
    from moezoo.backbones.inject import inject_moe
    from moezoo.backbones.params import freeze_backbone, param_groups
    from moezoo.backbones.upcycle import upcycle
    from moezoo.data import register_dataset
    from moezoo.eval.metrics import register_metric
    from moezoo.factory import create_model, get_pretrained_cfg
    from moezoo.hub.push import push_to_hub
    from moezoo.hub.save import save_pretrained
    from moezoo.measure.info import print_model_info
    from moezoo.models.attention_routing.aggregators import register_aggregator
    from moezoo.moe.aux import aux_loss, collect_aux
    from moezoo.moe.dial import set_budget, set_threshold
    from moezoo.moe.experts import register_experts
    from moezoo.moe.record import record_routing
    from moezoo.moe.routers import register_router
    from moezoo.registry import (
        is_model,
        is_model_pretrained,
        list_models,
        list_pretrained,
        model_config,
        model_entrypoint,
        register_model,
    )

__all__ = [*_EXPORTS, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        value = getattr(importlib.import_module(_EXPORTS[name]), name)
        globals()[name] = value
        return value
    if name in _SUBPACKAGES:
        return importlib.import_module(f"moezoo.{name}")
    raise AttributeError(f"module 'moezoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS, *_SUBPACKAGES})
