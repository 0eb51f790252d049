"""Which models exist, by name. No torch here."""

from __future__ import annotations

import fnmatch
import importlib
import sys
import warnings
from collections.abc import Callable, Iterable
from typing import Any

from moezoo.config import field_names, override
from moezoo.errors import MoeZooDeprecationWarning, UnknownModelError
from moezoo.names import HUB_BACKBONE, ModelName, did_you_mean, looks_like_hub_id, natural_key, parse_name
from moezoo.registration import (
    DEPRECATED,
    MODELS,
    NAME_LIMIT,
    OPEN_ARCHS,
    ModelEntry,
    OpenArchs,
    register_model,
    register_open_archs,
)

__all__ = [
    "ModelEntry",
    "OpenArchs",
    "build",
    "deprecated_models",
    "families",
    "is_model",
    "is_model_pretrained",
    "list_models",
    "list_pretrained",
    "model_config",
    "model_entrypoint",
    "model_weights",
    "open_models",
    "register_model",
    "register_open_archs",
    "resolve",
]


def families() -> list[str]:
    """Every family with at least one registered model."""
    _load()
    return sorted({base.partition("/")[0] for base in (*MODELS, *DEPRECATED)} | set(OPEN_ARCHS))


def open_models() -> list[str]:
    """Every ``family/arch`` that is created without a registration of its own; may import timm."""
    _load()
    return [f"{family}/{arch}" for family, archs in OPEN_ARCHS.items() for arch in archs.names()]


def list_models(
    filter: str | Iterable[str] = "",
    *,
    exclude_filters: str | Iterable[str] = "",
    family: str | None = None,
    pretrained: bool = False,
) -> list[str]:
    """Canonical names of the registered models, variants included, in natural order.

    Args:
        filter: An fnmatch pattern or several; either spelling of a name (``/`` or ``_``) may match.
        exclude_filters: Patterns to leave out.
        family: Only this family.
        pretrained: Only names whose weights have a known source (moezoo's own or the backbone's).

    Raises:
        UnknownModelError: ``family`` is not a registered family.
    """
    known = families()
    if family is not None and family not in known:
        raise UnknownModelError(
            f"unknown family {family!r}.{did_you_mean(str(family), known)} Known: {', '.join(known)}."
        )
    include, exclude = _patterns(filter), _patterns(exclude_filters)
    names = []
    for entry in MODELS.values():
        if family is not None and entry.base.partition("/")[0] != family:
            continue
        for name in entry.canonical_names():
            spellings = _spellings(entry, name)
            if include and not _matches(spellings, include):
                continue
            if exclude and _matches(spellings, exclude):
                continue
            if pretrained and not _has_weights(entry, name):
                continue
            names.append(name)
    return sorted(names, key=natural_key)


def list_pretrained(filter: str | Iterable[str] = "", *, exclude_filters: str | Iterable[str] = "") -> list[str]:
    """``list_models(filter, exclude_filters=exclude_filters, pretrained=True)``."""
    return list_models(filter, exclude_filters=exclude_filters, pretrained=True)


def deprecated_models() -> dict[str, str]:
    """Old ``family/arch`` names that still work with a warning, and what they mean now."""
    _load()
    return dict(DEPRECATED)


def is_model(name: str) -> bool:
    """Whether ``create_model(name)`` would find a configuration."""
    try:
        parsed, entry = resolve(name, warn=False)
    except UnknownModelError:
        return False
    return entry is not None or OPEN_ARCHS[parsed.family].known(parsed.arch)


def is_model_pretrained(name: str) -> bool:
    """Whether the name's weights have a known source, found without the network."""
    parsed, entry = resolve(name, warn=False)
    return entry is not None and _has_weights(entry, str(parsed))


def model_entrypoint(name: str) -> Callable[[], Any]:
    """The registered function behind ``name``; raises :class:`UnknownModelError`."""
    parsed, entry = resolve(name)
    if entry is None:
        raise UnknownModelError(
            f"{name!r} has no registered entrypoint; {parsed.family!r} builds it from its architecture name"
        )
    return entry.entrypoint


def model_weights(name: str) -> str | None:
    """The stored name of moezoo's own weights for ``name``, ``"backbone"``, or ``None``."""
    parsed, entry = resolve(name, warn=False)
    if entry is None or entry.weights is None or isinstance(entry.weights, str):
        return entry.weights if entry is not None else None  # type: ignore[return-value]
    return entry.weights.get(parsed.variant or entry.default_variant)


def model_config(name: str, **overrides: Any) -> Any:
    """The family's configuration for ``name`` with ``overrides`` applied strictly.

    Raises:
        UnknownModelError: No such family, architecture or variant.
        ConfigError: An override is unknown, ill-typed or out of range.
    """
    parsed, entry = resolve(name)
    if entry is not None:
        config, variants = entry.entrypoint(), entry.variants
    else:
        archs = OPEN_ARCHS[parsed.family]
        if not archs.known(parsed.arch):
            raise _unknown(name, (f"{parsed.family}/{arch}" for arch in archs.names()))
        config, variants = archs.config(parsed.arch), archs.variants
    changes = variants[parsed.variant] if parsed.variant else {}
    names = field_names(type(config))
    given = {names.get(key, key) for key in overrides}
    changes = {key: value for key, value in changes.items() if names.get(key, key) not in given}
    return override(config, {**changes, **overrides}, where=name)


def build(config: Any) -> Any:
    """The model of a configuration, built by ``build`` in the ``model.py`` beside the configuration's module."""
    package = type(config).__module__.rpartition(".")[0]
    return importlib.import_module(f"{package}.model").build(config)


def resolve(name: str, *, warn: bool = True) -> tuple[ModelName, ModelEntry | None]:
    """Parse ``name`` and find its entry; ``None`` for an open architecture.

    Raises:
        UnknownModelError: With the three nearest names.
    """
    if not isinstance(name, str) or not name or len(name) > 4 * NAME_LIMIT:
        raise UnknownModelError(f"a model name is a string such as 'entity_moe/vit_base.last', got {str(name)[:80]!r}")
    parsed = parse_name(name, families())
    if parsed is None:
        raise _unknown(name)
    if parsed.base in DEPRECATED:
        successor = DEPRECATED[parsed.base]
        if warn:
            text = f"{parsed.base!r} is deprecated, use {successor!r}"
            warnings.warn(text, MoeZooDeprecationWarning, stacklevel=_callers_level())
        family, _, arch = successor.partition("/")
        parsed = ModelName(family, arch, parsed.variant)
    entry = MODELS.get(parsed.base)
    if entry is None and parsed.family not in OPEN_ARCHS:
        raise _unknown(name)
    variants = entry.variants if entry is not None else OPEN_ARCHS[parsed.family].variants
    if parsed.variant not in variants and parsed.arch.startswith(HUB_BACKBONE):
        parsed = ModelName(parsed.family, str(parsed).partition("/")[2])  # the dot was the Hub id's own
    if parsed.variant and parsed.variant not in variants:
        raise UnknownModelError(
            f"{parsed.base!r} has no variant {parsed.variant!r}.{did_you_mean(parsed.variant, variants)} "
            f"Variants: {', '.join(variants) or 'none'}. One variant per name; combine changes by keyword overrides; "
            "a weight tag goes into backbone_tag=."
        )
    return parsed, entry


def _callers_level() -> int:
    """The ``stacklevel`` at which a warning points at the user's line, however deep in moezoo it is raised."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == "moezoo":
        frame, level = frame.f_back, level + 1
    return level


def _unknown(name: str, more: Iterable[str] = ()) -> UnknownModelError:
    spellings = [s for entry in MODELS.values() for n in entry.canonical_names() for s in _spellings(entry, n)]
    hint = did_you_mean(name, [*spellings, *more])
    if len(name) <= NAME_LIMIT and looks_like_hub_id(name) and name.partition("/")[0] not in families():
        hint += f" A model on the Hub is written 'hf-hub:{name}'."
    return UnknownModelError(f"unknown model {name!r}.{hint} moezoo.list_models() shows every registered name.")


def _spellings(entry: ModelEntry, name: str) -> list[str]:
    spellings = [name]
    if name == f"{entry.base}.{entry.default_variant}":
        spellings.append(entry.base)
    return spellings + [s.replace("/", "_", 1) for s in spellings]


def _patterns(filter: str | Iterable[str]) -> list[str]:
    return [p for p in ([filter] if isinstance(filter, str) else list(filter)) if p]


def _matches(spellings: list[str], patterns: list[str]) -> bool:
    return any(fnmatch.fnmatch(spelling, pattern) for spelling in spellings for pattern in patterns)


def _has_weights(entry: ModelEntry, name: str) -> bool:
    if entry.weights is None or isinstance(entry.weights, str):
        return entry.weights is not None
    return (name.removeprefix(entry.base).removeprefix(".") or entry.default_variant) in entry.weights


def _load() -> None:
    from moezoo.plugins import load_all

    load_all()
