"""The options of a data set, read off its function's signature. No torch here."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from moezoo.config import STRICT, decode
from moezoo.errors import ConfigError

REQUIRED = dataclasses.MISSING


@dataclass(frozen=True)
class Option:
    """One keyword that users can set."""

    name: str
    type: Any
    default: Any
    """``REQUIRED`` if there is none."""
    help: str
    group: str | None
    """The parameter whose dataclass has this field; ``None`` for a parameter of its own."""


def options_of(load: Callable[..., Any]) -> list[Option]:
    """The options of ``load``: its parameters, and the fields of those whose type is a dataclass."""
    hints, helps = get_type_hints(load), _documented(load)
    found = []
    for p in _parameters(load):
        default = REQUIRED if p.default is p.empty else p.default
        hint = hints.get(p.name, Any)
        if not _is_group(hint):
            found.append(Option(p.name, hint, default, helps.get(p.name, ""), None))
            continue
        types = get_type_hints(hint)
        for field in dataclasses.fields(hint):
            value = field.default if default is REQUIRED else getattr(default, field.name)
            found.append(Option(field.name, types[field.name], value, field.metadata.get("help", ""), p.name))
    return found


def option_names(load: Callable[..., Any]) -> set[str]:
    return {option.name for option in options_of(load)}


def decode_options(load: Callable[..., Any], values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """The keywords to call ``load`` with: ``values`` checked by the rules every configuration follows.

    Raises:
        ConfigError: An unknown, ill-typed or missing option.
    """
    if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(load).parameters.values()):
        return dict(values)
    options = {option.name: option for option in options_of(load)}
    fields = [
        (o.name, o.type, dataclasses.field(default=None if o.default is REQUIRED else o.default))
        for o in options.values()
    ]
    cls = dataclasses.make_dataclass("Options", fields, frozen=True, namespace={"__pydantic_config__": STRICT})
    decoded: Any = decode(cls, values, where=where)
    missing = [name for name, o in options.items() if o.default is REQUIRED and name not in values]
    if missing:
        raise ConfigError(f"{where} needs {', '.join(f'{name}=' for name in missing)}")
    keywords: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for name, option in options.items():
        if option.group is not None:
            groups.setdefault(option.group, {})[name] = getattr(decoded, name)
        elif name in values:
            # A parameter without a type was not checked, so it is handed on as it came.
            keywords[name] = values[name] if option.type is Any else getattr(decoded, name)
    hints = get_type_hints(load)
    return {**keywords, **{name: hints[name](**fields) for name, fields in groups.items()}}


def _parameters(load: Callable[..., Any]) -> list[inspect.Parameter]:
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [p for p in inspect.signature(load).parameters.values() if p.kind in kinds]


def _is_group(hint: Any) -> bool:
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def _documented(load: Callable[..., Any]) -> dict[str, str]:
    """The ``Args:`` of a docstring as name to text."""
    text = inspect.getdoc(load) or ""
    section = re.search(r"^Args:\n((?:[ ]{4}.*\n?|\n)*)", text, re.MULTILINE)
    entries = re.findall(r"^ {4}(\w+): ((?:.|\n {8})*)", section[1], re.MULTILINE) if section else []
    return {name: " ".join(words.split()) for name, words in entries}
