"""What an ablation varies, one factor at a time, and the words for it."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from moezoo.ablate.dials import DIALS, dials_of
from moezoo.config import field_names, parse_assignments
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean
from moezoo.registry import build, is_model, model_config, resolve
from moezoo.train import TrainingConfig

logger = logging.getLogger(__name__)

VARIANT = "variant"
"""The factor whose values are variants of the model's name."""
BARE = "base"
"""Among its values, the bare name."""
TRAINED = ("model", "data", "training")
"""Sections of a recipe whose keys change what a run learns."""


@dataclass(frozen=True)
class Factor:
    """``name`` is a key of the recipe as ``--set`` takes it, ``variant``, or a dial of the trained model."""

    name: str
    values: tuple[Any, ...]

    @property
    def is_dial(self) -> bool:
        """Whether it is turned on the trained model, without another run."""
        return self.name in DIALS


def read_factors(given: Any, model: str, where: str) -> tuple[Factor, ...]:
    """A ``vary`` section as factors of ``model``.

    Raises:
        ConfigError: It is no mapping of names to lists, or a name is no factor, with the nearest spelling.
    """
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"{where}: vary must map factors to lists of values, got {given!r:.80}")
    return tuple(
        Factor(_known(str(name), model, where), _values(name, values, where)) for name, values in given.items()
    )


def family_factors(given: Any, model: str) -> tuple[Factor, ...]:
    """Those of a family's own file that this model of it has, variants too; what is left out is logged.

    Raises:
        ConfigError: As :func:`read_factors`.
    """
    parsed = resolve(model)[0]
    where = f"{parsed.family}/ablation.yaml"
    if not isinstance(given, Mapping):
        return read_factors(given, model, where)
    config = model_config(model)
    with torch.device("meta"):
        dials = dials_of(build(config))
    fields, fitting = field_names(type(config)), {}
    for name, values in given.items():
        if name == VARIANT and isinstance(values, list):
            values = [value for value in values if value == BARE or is_model(f"{parsed.base}.{value}")]
        if values and (name in (VARIANT, *dials, *fields) or "." in str(name)):
            fitting[name] = values
    if missing := [str(name) for name in given if fitting.get(name) != given[name]]:
        logger.info("%s has not all that its family's ablation varies: %s", model, ", ".join(missing))
    return read_factors(fitting, model, where)


def parse_vary(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """``["temperature=0.5,1", "variant=dense"]`` to lists; what stands between commas is YAML."""
    found: dict[str, list[Any]] = {}
    for pair in pairs:
        key, sign, values = pair.partition("=")
        if not sign or not key.strip() or not values.strip():
            raise ConfigError(f"--vary takes factor=value,value, got {pair!r}")
        if key.strip() in found:
            raise ConfigError(f"--vary {key.strip()} is given twice")
        found[key.strip()] = parse_assignments([f"x=[{values}]"], "--vary")["x"]
    return found


def choose(factors: Sequence[Factor], only: Sequence[str]) -> tuple[Factor, ...]:
    """Those of ``only``; without it all."""
    names = [factor.name for factor in factors]
    for name in only:
        if name not in names:
            raise ConfigError(f"only={name!r}: no such factor.{did_you_mean(name, names)} Factors: {', '.join(names)}.")
    return tuple(factor for factor in factors if not only or factor.name in only)


def words(value: Any) -> str:
    """A value as tables and names of folders show it."""
    if isinstance(value, (list, tuple)):
        return "x".join(map(words, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _known(name: str, model: str, where: str) -> str:
    section, dot, key = name.partition(".")
    fields = field_names(type(model_config(model)))
    known = [VARIANT, *DIALS, *fields, *(f"training.{f.name}" for f in dataclasses.fields(TrainingConfig))]
    if name == "training.seed":
        raise ConfigError(f"{where}: training.seed is no factor: --seeds N repeats every run with other seeds")
    free = dot and key and section in TRAINED and section != "training"  # their own decoders know the keys
    if not free and name not in known:
        raise ConfigError(
            f"{where}: {name!r} is no factor.{did_you_mean(name, known)} A factor is a key of the model, "
            f"training.KEY, data.KEY, {VARIANT}, {', '.join(DIALS)}."
        )
    return name


def _values(name: Any, values: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{where}: {name} must be a list of values, got {values!r:.80}")
    texts = [json.dumps(value, default=str) for value in values]
    if twice := [text for text in dict.fromkeys(texts) if texts.count(text) > 1]:
        raise ConfigError(f"{where}: {name} has {', '.join(twice)} twice")
    return tuple(values)
