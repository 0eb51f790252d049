"""How models come to be known: functions that return a configuration, by ``family/arch``. No torch here.

Models have tables of their own (parts are in :mod:`moezoo.parts`), because a model name also carries variants, weights
and deprecated spellings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, overload

from moezoo.config import field_names
from moezoo.errors import RegistrationError
from moezoo.names import did_you_mean
from moezoo.parts import PART_NAME

F = TypeVar("F", bound=Callable[..., Any])

NAME_LIMIT = 96
"""Longest model name accepted; file names and hub ids are made of it."""


@dataclass(frozen=True)
class ModelEntry:
    """One registered ``family/arch`` with its variants."""

    base: str
    entrypoint: Callable[[], Any]
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weights: str | Mapping[str, str] | None = None
    """``"backbone"``: the backbone has known weights; a mapping: variant (``""`` for bare) to stored name."""

    @property
    def default_variant(self) -> str:
        """The variant that changes nothing, so that the bare name equals it; ``""`` when there is none."""
        bare = self.entrypoint()
        for variant, changes in self.variants.items():
            names = field_names(type(bare))
            if all(getattr(bare, names.get(key, key), None) == value for key, value in changes.items()):
                return variant
        return ""

    def canonical_names(self) -> list[str]:
        """The names ``list_models`` shows: every variant, and the bare name unless a variant equals it."""
        bare = [] if self.default_variant else [self.base]
        return bare + [f"{self.base}.{variant}" for variant in self.variants]


@dataclass(frozen=True)
class OpenArchs:
    """A family's answer to architectures nobody registered, for example any timm name."""

    config: Callable[[str], Any]
    known: Callable[[str], bool]
    """Whether the architecture exists; may import timm."""
    names: Callable[[], Iterable[str]]
    """Architectures to suggest for a misspelt one; may import timm."""
    variants: Mapping[str, Mapping[str, Any]]


MODELS: dict[str, ModelEntry] = {}
DEPRECATED: dict[str, str] = {}
OPEN_ARCHS: dict[str, OpenArchs] = {}


@overload
def register_model(name: F) -> F: ...
@overload
def register_model(
    name: str | None = None,
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    weights: str | Mapping[str, str] | None = None,
    deprecated: Iterable[str] = (),
) -> Callable[[F], F]: ...
def register_model(name=None, *, variants=None, weights=None, deprecated=()):
    """Register a small, torch-free function that returns a model's configuration.

    Args:
        name: ``family/arch``. Without it the function's own name is taken: ``entity_moe_vit_base`` in a module
            ``….entity_moe.presets`` means ``entity_moe/vit_base``.
        variants: Variant name to the config fields it changes. A variant that changes nothing is the default one.
        weights: ``"backbone"`` when the backbone has pretrained weights, or a mapping from variant to the stored model
            (``hf-hub:…``) that holds moezoo's own.
        deprecated: Old ``family/arch`` names that still work with a warning.

    Raises:
        RegistrationError: The name is taken or malformed.
    """
    if callable(name):
        return _register(None, name, {}, None, ())
    if name is not None and not isinstance(name, str):
        raise RegistrationError(f"model name {name!r} must be a string 'family/arch'")
    variants = {} if variants is None else variants
    if not isinstance(variants, Mapping) or not all(isinstance(changes, Mapping) for changes in variants.values()):
        raise RegistrationError(f"variants={variants!r} must map variant names to the fields they change")
    if weights not in (None, "backbone") and not isinstance(weights, Mapping):
        raise RegistrationError(f"weights={weights!r} must be 'backbone' or map variants to stored names")
    old_names = (deprecated,) if isinstance(deprecated, str) else tuple(deprecated)
    return lambda fn: _register(name, fn, dict(variants), weights, old_names)


def _register(name: str | None, fn: F, variants: dict, weights: Any, deprecated: tuple[str, ...]) -> F:
    if name is None:
        family = fn.__module__.split(".")[-2] if "." in fn.__module__ else ""
        fn_name = fn.__name__
        if family and fn_name.startswith(f"{family}_"):
            name = f"{family}/{fn_name[len(family) + 1 :]}"
        else:
            raise RegistrationError(
                f"register_model: the name of {fn_name!r} must start with its family ({family!r}_…), or pass "
                "'family/arch'"
            )
    if not callable(fn):
        raise RegistrationError(f"model {name!r} must be a function that returns a configuration, got {fn!r}")
    family, slash, arch = name.partition("/")
    if not slash or not PART_NAME.fullmatch(family) or not PART_NAME.fullmatch(arch) or len(name) > NAME_LIMIT:
        raise RegistrationError(f"model name {name!r} must be 'family/arch' of letters, digits, '_' and '-'")
    for variant in variants:
        if not PART_NAME.fullmatch(variant):
            raise RegistrationError(f"variant {variant!r} of {name!r} must be letters, digits, '_' or '-'")
    for key in (name, *deprecated):
        if key in MODELS or key in DEPRECATED:
            raise RegistrationError(f"model {key!r} is already registered")
    _check_entrypoint(name, fn, variants)
    MODELS[name] = ModelEntry(name, fn, variants, weights)
    DEPRECATED.update(dict.fromkeys(deprecated, name))
    return fn


def _check_entrypoint(name: str, fn: Callable[[], Any], variants: Mapping[str, Mapping[str, Any]]) -> None:
    """Call it once now: a mistake found later would stop ``list_models`` for everybody."""
    try:
        config = fn()
    except Exception as error:
        raise RegistrationError(f"the function behind model {name!r} fails without arguments: {error!r}") from error
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise RegistrationError(f"the function behind model {name!r} must return a dataclass, got {config!r:.80}")
    names = field_names(type(config))
    for variant, changes in variants.items():
        for key in changes:
            if key not in names:
                raise RegistrationError(
                    f"variant {variant!r} of {name!r} changes the unknown field {key!r}.{did_you_mean(str(key), names)}"
                )


def register_open_archs(family: str, archs: OpenArchs) -> None:
    """Let ``family/<anything archs.known accepts>`` be created without a registration of its own."""
    if family in OPEN_ARCHS:
        raise RegistrationError(f"family {family!r} already answers to unregistered architectures")
    OPEN_ARCHS[family] = archs
