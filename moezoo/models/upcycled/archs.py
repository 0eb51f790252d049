"""Families that answer to any timm architecture. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from moezoo.registry import OpenArchs, register_open_archs

SHORT_NAMES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}


def answer_to_timm(
    family: str, config: Callable[..., Any], variants: Mapping[str, Mapping[str, Any]]
) -> Callable[[str], Any]:
    """Let ``family/<any timm architecture>`` be created from ``config(model_name=…)``.

    Returns:
        The configuration of an architecture, by timm's name or a short one.
    """

    def any_config(arch: str) -> Any:
        return config(model_name=SHORT_NAMES.get(arch, arch))

    register_open_archs(family, OpenArchs(any_config, _is_known, _transformers, variants))
    return any_config


def _is_known(arch: str) -> bool:
    from moezoo.backbones.timm_models import is_architecture

    return is_architecture(SHORT_NAMES.get(arch, arch))


def _transformers() -> list[str]:
    from moezoo.backbones.timm_models import architectures

    return [*SHORT_NAMES, *(name for name in architectures() if "vit" in name or "eva" in name)]
