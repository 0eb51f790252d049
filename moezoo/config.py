"""Strict decoding of plain frozen dataclasses, and the way configurations are read, merged and written.

Family configurations are flat frozen dataclasses. Whatever comes from outside (keyword overrides, YAML,
``config.json``, ``--set`` flags) passes :func:`decode`, which refuses unknown, ill-typed and out-of-range values by
name. No torch here.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

T = TypeVar("T")

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
"""Set as ``__pydantic_config__`` on a dataclass: no coercion of ``"4"``, ``True`` or ``1.5`` into an int."""


def option(default: Any, help: str, *, alias: tuple[str, ...] | str = (), null: bool = False) -> Any:
    """A dataclass field with a one-line ``help`` (shown by ``moezoo info``) and other names it answers to.

    With ``null``, ``None`` is a value of its own to :func:`moezoo.create_model` too, for which it else is the default.
    """
    aliases = (alias,) if isinstance(alias, str) else alias
    return dataclasses.field(default=default, metadata={"help": help, "aliases": aliases, "null": null})


def stated(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """``values`` without each ``None`` that only means a default; aliases count as their field."""
    names = field_names(cls)
    own = {field.name for field in dataclasses.fields(cls) if field.metadata.get("null")}
    return {key: value for key, value in values.items() if value is not None or names.get(key) in own}


def decode(cls: type[T], values: Mapping[str, Any], *, where: str = "") -> T:
    """Build ``cls`` from ``values``.

    Args:
        cls: A dataclass, usually with ``__pydantic_config__ = STRICT``.
        values: Field names or aliases to plain JSON-like values; lists may stand for tuples.
        where: What is being configured, for the error message.

    Raises:
        ConfigError: A field is unknown, given twice under two names, ill-typed or out of range.
    """
    place = f"{where}: " if where else ""
    resolved = _resolve_aliases(cls, values, place)
    try:
        # JSON mode lets a list stand for a tuple while ints, bools and strings stay strictly apart.
        return _adapter(cast("Any", cls)).validate_json(json.dumps(resolved))
    except ValidationError as error:
        raise ConfigError(place + _explain(cls, resolved, error)) from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}the configuration is not plain data: {error}") from None


def override(config: T, values: Mapping[str, Any], *, where: str = "") -> T:
    """``config`` with ``values`` replaced, decoded strictly."""
    if not values:
        return config
    cls = type(config)
    resolved = _resolve_aliases(cls, values, f"{where}: " if where else "")
    return decode(cls, {**to_dict(config), **resolved}, where=where)


def field_names(cls: type) -> dict[str, str]:
    """Every accepted name, aliases included, mapped to the field it sets."""
    names = {f.name: f.name for f in dataclasses.fields(cls)}
    for f in dataclasses.fields(cls):
        names.update(dict.fromkeys(f.metadata.get("aliases", ()), f.name))
    return names


def to_dict(config: Any) -> dict[str, Any]:
    """The dataclass as plain JSON-like data (tuples become lists)."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_yaml(text: str, *, where: str = "YAML") -> dict[str, Any]:
    """Parse YAML that must be a mapping. ``1e-3`` is a float here, as everyone expects."""
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{where} must be a mapping of names to values, got {type(data).__name__}")
    return data


def to_yaml(data: Mapping[str, Any]) -> str:
    """Readable YAML in the order given."""
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file, or raise :class:`ConfigError` naming it."""
    try:
        return from_yaml(Path(path).read_text(encoding="utf-8-sig"), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config file {str(path)!r} cannot be read: {error}") from None


def parse_assignments(pairs: list[str], option: str = "--set") -> dict[str, Any]:
    """``["num_experts=8", "training.lr=1e-3"]`` to a nested mapping; values are YAML. Errors name ``option``."""
    result: dict[str, Any] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        if not sign or not key.strip():
            raise ConfigError(f"{option} takes key=value, got {pair!r}")
        *parents, last = key.strip().split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{option} {pair!r}: {parent!r} was already given a plain value")
        try:
            node[last] = yaml.load(value, Loader=_Loader)
        except yaml.YAMLError as error:
            raise ConfigError(f"{option} {pair!r}: the value is not valid YAML: {error}") from None
    return result


def merge(base: Mapping[str, Any], *overlays: Mapping[str, Any]) -> dict[str, Any]:
    """Nested merge; later mappings win. Preset < file < flags is ``merge(preset, file, flags)``."""
    result = dict(base)
    for overlay in overlays:
        for key, value in overlay.items():
            old = result.get(key)
            both = isinstance(old, Mapping) and isinstance(value, Mapping)
            result[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return result


def _resolve_aliases(cls: type, values: Mapping[str, Any], place: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{place}expected a mapping of field names to values, got {type(values).__name__}")
    names = field_names(cls)
    resolved: dict[str, Any] = {}
    for key, value in values.items():
        if key not in names:
            allowed = ", ".join(f.name for f in dataclasses.fields(cls))
            raise ConfigError(f"{place}unknown field {key!r}.{did_you_mean(str(key), names)} Allowed: {allowed}.")
        if names[key] in resolved:
            alias = next(k for k in values if names.get(k) == names[key] and k != names[key])
            raise ConfigError(f"{place}{names[key]!r} is given twice, once as {alias!r}")
        resolved[names[key]] = value
    return resolved


def _explain(cls: type, values: Mapping[str, Any], error: ValidationError) -> str:
    """One clause per field: the value given, what is allowed, the nearest spelling."""
    by_field: dict[str, list[Any]] = {}
    for item in error.errors():
        by_field.setdefault(str(item["loc"][0]) if item["loc"] else "", []).append(item)
    clauses = []
    for name, items in by_field.items():
        reasons = list(dict.fromkeys(_reason(item) for item in items))
        if not name:  # raised by __post_init__, which names the fields itself
            clauses.append("; ".join(reasons))
            continue
        hints = [
            did_you_mean(values[name], re.findall(r"'([^']+)'", item["ctx"]["expected"]))
            for item in items
            if item["type"] == "literal_error" and isinstance(values.get(name), str)
        ]
        clauses.append(f"{name}={values.get(name)!r} is not allowed: {' or '.join(reasons)}.{''.join(hints)}")
    return " ".join(clauses)


def _reason(item: Any) -> str:
    text = item["msg"].removeprefix("Value error, ")
    return text[0].lower() + text[1:] if item["type"] != "value_error" else text


@functools.cache
def _adapter(cls: Any) -> TypeAdapter[Any]:
    return TypeAdapter(cls)


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads ``1e-3`` as a float; YAML 1.1 would make it a string."""


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes the string ``"1e-3"``, since :class:`_Loader` would read it as a float."""


for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
        list("-+0123456789"),
    )
