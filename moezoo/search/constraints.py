"""Constraints on designs, as text: ``w_m>=2``, ``num_experts=4``, ``depths<=8``, or a relation's name."""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from moezoo.config import parse_assignments
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean
from moezoo.search.spaces.base import Relation, Space, Values

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "==": operator.eq,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
PATTERN = re.compile(r"\s*([\w.]+)\s*(<=|>=|!=|==|=|<|>)\s*([^\s<>=!].*?)\s*")

Constraint = str | Relation


def make_filter(space: Space, constraints: Sequence[Constraint]) -> Relation:
    """One test of a design's values for all ``constraints``.

    Args:
        space: Whose designs are meant.
        constraints: ``FIELD OPERATOR VALUE``, of fields with one number per stage for every stage; the name of one of
            the space's relations; or a function of the values.

    Raises:
        ConfigError: A constraint is malformed, or names no field or relation; with the nearest spelling.
    """
    if isinstance(constraints, str):
        raise ConfigError(f"constraints={constraints!r} is not allowed: it must be a list of constraints.")
    tests = [each if callable(each) else _parse(space, each) for each in constraints]
    return lambda values: all(test(values) for test in tests)


def _parse(space: Space, text: str) -> Relation:
    if text in space.relations:
        return space.relations[text]
    match = PATTERN.fullmatch(str(text))
    known = [*space.fields(), *space.relations]
    if match is None:
        raise ConfigError(
            f"constraint {text!r} is neither FIELD OPERATOR VALUE, such as {space.fields()[0]}>=2, nor a relation."
            f"{did_you_mean(str(text), known)} Relations of {space.name}: {', '.join(space.relations) or 'none'}."
        )
    field, sign, written = match.groups()
    if field not in space.fields():
        hint = did_you_mean(field, space.fields())
        raise ConfigError(f"constraint {text!r}: {space.name} has no {field!r}.{hint} Fields: {', '.join(known)}.")
    wanted, compare = parse_assignments([f"x={written}"])["x"], OPERATORS[sign]
    ordering = compare not in (operator.eq, operator.ne)

    def test(values: Values) -> bool:
        value = values[field]
        each = value if isinstance(value, (list, tuple)) and not isinstance(wanted, list) else [value]
        try:
            # null is neither more nor less than anything
            return all(not (ordering and one is None) and compare(one, wanted) for one in each)
        except TypeError:
            raise ConfigError(f"constraint {text!r}: {value!r} of {field} cannot be compared with it.") from None

    options = space.options.get(field, ())
    met = [test({field: option}) for option in options]  # of all, so that none is an error later
    if options and not any(met):
        known = [option if isinstance(option, str) else json.dumps(option) for option in options]
        raise ConfigError(
            f"constraint {text!r}: no value of {field} meets it.{did_you_mean(written, known)} Values: "
            f"{', '.join(known)}."
        )
    return test
