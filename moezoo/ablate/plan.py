"""An ablation put together: which model, what is varied, and what is the same in every run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.ablate.factors import Factor, choose, family_factors, parse_vary, read_factors
from moezoo.config import read_yaml
from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int
from moezoo.names import did_you_mean, is_stored_name
from moezoo.recipes import find_ablation
from moezoo.registry import resolve
from moezoo.train import Recipe, resolve_recipe
from moezoo.train.recipe import SECTIONS

VARY = "vary"


@dataclass(frozen=True)
class Plan:
    """What :func:`~moezoo.ablate.ablate` is to do."""

    name: str
    """The model's."""
    factors: tuple[Factor, ...]
    assignments: tuple[str, ...]
    """``key=value`` over the model's recipe, in every run."""
    seeds: int = 1
    pretrained: bool = False
    measure: bool = False
    """What the models cost is measured too, when all are trained."""

    def recipe(self, *changes: str, variant: str | None = None, seed: int = 0) -> Recipe:
        """The recipe of one run.

        Args:
            changes: ``key=value`` that this run has different.
            variant: In place of the name's own; ``""`` is the bare name.
            seed: Counted from 0; added to the recipe's.

        Raises:
            ConfigError: A change is not allowed.
            UnknownModelError: There is no such variant.
        """
        name = self.name
        if variant is not None:
            base = resolve(name)[0].base
            name = f"{base}.{variant}" if variant else base
        recipe = resolve_recipe(name, assignments=[*self.assignments, *changes])
        if not seed:
            return recipe
        moved = f"training.seed={recipe.training.seed + seed}"
        return resolve_recipe(name, assignments=[*self.assignments, *changes, moved])


def resolve_plan(
    name: str,
    *,
    file: str | Path | None = None,
    vary: Sequence[str] = (),
    only: Sequence[str] = (),
    assignments: Sequence[str] = (),
    seeds: int = 1,
    pretrained: bool = False,
    measure: bool = False,
) -> Plan:
    """Merge and check: the model's recipe < its family's ``ablation.yaml`` < ``file`` < ``assignments``.

    Args:
        name: A registered model.
        file: YAML with sections of a recipe, which hold in every run, and ``vary``: a list of values for each factor.
        vary: ``factor=value,value`` in place of all of the files' factors.
        only: Names of factors; the others are left out.
        assignments: ``key=value`` as of ``moezoo train --set``.
        seeds: Runs of everything, with seeds that follow the recipe's.
        pretrained: Every run begins with pretrained weights.
        measure: Measure parameters, time per image and memory of the models too.

    Raises:
        UnknownModelError: No such model.
        ConfigError: A section, factor or value is unknown or not allowed, or there is nothing to vary.
    """
    check_int("seeds", seeds, low=1)
    if is_stored_name(name):
        raise ConfigError(f"{name!r} is trained already; an ablation trains: give the name of a registered model.")
    family = resolve(name)[0].family
    own, given = find_ablation(family), read_yaml(file) if file is not None else {}
    for content, where in ((own, f"{family}/ablation.yaml"), (given, str(file))):
        _check_sections(content, where)
    if vary:
        factors = read_factors(parse_vary(vary), name, "--vary")
    elif VARY in given:
        factors = read_factors(given[VARY], name, str(file))
    elif VARY in own:
        factors = family_factors(own[VARY], name)
    else:
        raise ConfigError(
            f"nothing says what to vary in {name!r}: give --vary factor=value,value (vary=), or --config FILE with a "
            f"section '{VARY}' of factors and lists of values."
        )
    shared = (*_assignments(own), *_assignments(given), *assignments)
    plan = Plan(name, choose(factors, only), shared, seeds, pretrained, measure)
    plan.recipe()  # finds what is wrong with the base before anything else
    return plan


def _check_sections(content: Mapping[str, Any], where: str) -> None:
    allowed = (*SECTIONS, VARY)
    for section, values in content.items():
        if section not in allowed:
            raise ConfigError(
                f"{where}: unknown section {section!r}.{did_you_mean(str(section), allowed)} "
                f"Sections: {', '.join(allowed)}."
            )
        if section in SECTIONS and not isinstance(values, Mapping):
            raise ConfigError(f"{where}: section {section!r} must be a mapping of keys to values, got {values!r}")


def _assignments(content: Mapping[str, Any]) -> Iterator[str]:
    for section in SECTIONS:
        for key, value in content.get(section, {}).items():
            yield assignment(f"{section}.{key}", value)


def assignment(key: str, value: Any) -> str:
    """``key=value`` with the value as YAML."""
    return f"{key}={json.dumps(value, default=str)}"
