"""Spaces of registered models: keys of their recipes, and what each may be."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from moezoo.config import field_names, parse_assignments
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean, is_stored_name
from moezoo.registry import build, model_config
from moezoo.search.choosing import Chance, Chooser
from moezoo.search.spaces.base import Prepared, Space, Values
from moezoo.train import Recipe, TrainingConfig, create_for, resolve_recipe

TRIES = 50
"""Draws of the other values, before a value is taken to fit none."""


class ModelSpace(Space):
    """What may be varied of a registered model.

    Args:
        model: Its name.
        options: Key of its recipe, as ``moezoo train --set`` takes it (``num_experts``, ``backbone_args.depth``,
            ``training.lr``), to what it may be.
        name: As users say it; by default the model's.
        fixed: ``key=value`` in every design.
        epochs: Of a short training.
        help: One line about it.

    Raises:
        UnknownModelError: There is no such model.
        ConfigError: A key is none of the model's, with the nearest spelling, or has nothing to choose from.
    """

    def __init__(
        self,
        model: str,
        options: Mapping[str, Sequence[Any]],
        *,
        name: str | None = None,
        fixed: Sequence[str] = (),
        epochs: int = 6,
        help: str = "",
    ):
        if is_stored_name(model):
            raise ConfigError(f"{model!r} is trained already; a search trains: give the name of a registered model.")
        self.model, self.fixed, self.epochs = model, tuple(fixed), epochs
        self.name = name or model
        self.help = help or f"{', '.join(options)} of {model}"
        self.relations = {}
        if not options:
            raise ConfigError(
                f"nothing says what may differ between the models of {self.name}: give --vary key=value,…"
            )
        self.options = {key: tuple(map(_plain, values)) for key, values in options.items()}
        self._check()

    def fields(self) -> Sequence[str]:
        return tuple(self.options)

    def draw(self, choose: Chooser) -> dict[str, Any] | None:
        values = {key: choose.one_of(key, options) for key, options in self.options.items()}
        try:
            self.recipe(values)
        except ConfigError:  # more experts per token than there are, for example
            return None
        return values

    def recipe(self, values: Values, assignments: Sequence[str] = ()) -> Recipe:
        """Of one design."""
        own = [f"{key}={json.dumps(value)}" for key, value in values.items()]
        return resolve_recipe(self.model, assignments=[*self.fixed, *assignments, *own])

    def on_meta(self, values: Values, assignments: Sequence[str] = ()) -> nn.Module:
        recipe = self.recipe(values, assignments)
        with torch.device("meta"):
            return build(model_config(recipe.name, **recipe.model))

    def check(self, values: Values, assignments: Sequence[str] = ()) -> None:
        self.recipe(values, assignments)

    def prepare(self, values: Values, assignments: Sequence[str] = ()) -> Prepared:
        recipe = self.recipe(values, assignments)
        return Prepared(*create_for(recipe), recipe.training)

    def command(self, values: Values) -> str | None:
        own = [f"--set {pair}" for pair in self.fixed]
        own += [f"--set {key}={_shell(value)}" for key, value in values.items()]
        return " ".join([f"moezoo train {self.model}", *own])

    def check_options(self) -> None:
        """Raise :class:`ConfigError` where a value never makes a model, whatever the others are."""
        for key, values in self.options.items():
            for value in values:
                self._check_option(key, value)

    def _check_option(self, key: str, value: Any) -> None:
        chance = Chance(random.Random(0))
        for _ in range(TRIES):
            others = {name: chance.one_of(name, options) for name, options in self.options.items()}
            try:
                self.recipe({**others, key: value})
                return
            except ConfigError as error:
                last = error
        raise ConfigError(f"{self.name}: {key}={value!r} makes no model: {last}")

    def _check(self) -> None:
        fields = field_names(type(model_config(self.model)))
        known = [*fields, *(f"training.{field.name}" for field in dataclasses.fields(TrainingConfig))]
        for key, values in self.options.items():
            section, dot, rest = key.partition(".")
            nested = dot and rest and section not in ("training", "data", "viz")
            if key == "training.seed":
                raise ConfigError(f"{self.name}: training.seed is no choice: --seed sets it.")
            if key not in known and not (section == "data" and rest) and not (nested and section in (*fields, "model")):
                raise ConfigError(f"{self.name}: {key!r} is no key of {self.model!r}.{did_you_mean(key, known)}")
            if not values or len({json.dumps(value) for value in values}) < len(values):
                raise ConfigError(f"{self.name}: {key} must have values to choose from, each once, got {list(values)}.")


def parse_options(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """``["num_experts=2,4", "temperature=0.5,1"]`` to lists; what stands between commas is YAML.

    Raises:
        ConfigError: A pair is malformed or given twice.
    """
    found: dict[str, list[Any]] = {}
    for pair in pairs:
        key, sign, values = (part.strip() for part in pair.partition("="))
        if not sign or not key or not values or key in found:
            raise ConfigError(f"--vary takes key=value,value, each key once, got {pair!r}.")
        found[key] = parse_assignments([f"x=[{values}]"], "--vary")["x"]
    return found


def _plain(value: Any) -> Any:
    """As JSON gives it back: a tuple is a list."""
    return json.loads(json.dumps(value))


def _shell(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return f"'{text}'" if any(sign in text for sign in ' []{}"') else text
