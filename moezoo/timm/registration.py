"""Telling timm's registry about every model that moezoo creates by name."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import timm
from timm.models import DefaultCfg, register_model
from torch import nn

import moezoo.timm.moezoo as table
from moezoo.factory import get_pretrained_cfg
from moezoo.registry import is_model_pretrained, list_models, open_models
from moezoo.timm.create import create

log = logging.getLogger(__name__)

NO_WEIGHTS = {"url": None, "file": None, "hf_hub_id": None}


def register() -> list[str]:
    """Add the models that timm does not have yet; call it again after registering models of your own.

    Returns:
        The names that were added, in timm's spelling. A name that timm has from elsewhere is left alone, with a
        warning.
    """
    variants: dict[str, list[str]] = {}
    for name in list_models():
        base, _, variant = name.partition(".")
        variants.setdefault(base, []).append(variant)
    added = [_add(base, names) for base, names in variants.items()]
    added += [_add(base, []) for base in open_models() if base not in variants]
    return [name for name in added if name]


def _add(base: str, variants: list[str]) -> str | None:
    name = base.replace("/", "_", 1)
    if name in table.default_cfgs:
        return None
    if timm.is_model(name):
        log.warning("timm has a model %r from elsewhere; moezoo's is left out", name)
        return None
    table.default_cfgs[name] = _cfgs(base, variants)
    function = _entrypoint(base, name)
    setattr(table, name, function)
    register_model(function)
    return name


def _cfgs(base: str, variants: list[str]) -> DefaultCfg:
    """Of the bare name, timm's default, and of each variant."""
    cfgs = {}
    for tag in dict.fromkeys(["", *variants]):
        spelling = f"{base}.{tag}" if tag else base
        # Every architecture of an open family takes its backbone's weights.
        known = is_model_pretrained(spelling) if variants else True
        cfgs[tag] = replace(get_pretrained_cfg(spelling), **({} if known else NO_WEIGHTS))
    return DefaultCfg(deque(cfgs), cfgs, is_pretrained=any(cfg.has_weights for cfg in cfgs.values()))


def _entrypoint(base: str, name: str) -> Callable[..., nn.Module]:
    @functools.wraps(create, assigned=("__doc__",))
    def entrypoint(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        return create(base, pretrained, **kwargs)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__module__ = table.__name__
    return entrypoint
