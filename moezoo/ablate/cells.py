"""The runs an ablation needs. Runs that would be the same run are one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moezoo.ablate.factors import BARE, VARIANT, Factor, words
from moezoo.ablate.plan import Plan, assignment
from moezoo.config import field_names, to_dict
from moezoo.registry import model_config, resolve
from moezoo.train import Recipe
from moezoo.train.config import LIVE_FIELDS

BASE = "base"
Facts = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run."""

    folder: str
    """Below the ablation's folder of runs: what is different, and the seed."""
    recipe: Recipe
    facts: Facts
    """All that decides what the run learns, as JSON has it."""


@dataclass(frozen=True)
class Setting:
    """One value of one factor, and its runs, one per seed; a dial's are those of the base."""

    factor: str
    value: Any
    cells: tuple[Cell, ...]
    is_base: bool
    """Whether nothing is different."""
    is_dial: bool = False


def settings_of(plan: Plan) -> list[Setting]:
    """The base, and every value of every factor; the base's own value is among those of a factor that has runs.

    Raises:
        ConfigError: A value is not allowed.
        UnknownModelError: There is no such variant.
    """
    known: dict[str, Cell] = {}
    base = tuple(_cell(BASE, plan.recipe(seed=seed), plan, known) for seed in range(plan.seeds))
    found = [Setting(BASE, "", base, True)]
    for factor in plan.factors:
        if factor.is_dial:
            found += [Setting(factor.name, value, base, False, True) for value in factor.values]
        else:
            found += _trained(plan, factor, base, known)
    return found


def facts_of(recipe: Recipe, *, pretrained: bool) -> Facts:
    """What a run is about; where the data lies, the device and the like do not count."""
    config = model_config(recipe.name, **recipe.model)
    training = {key: value for key, value in to_dict(recipe.training).items() if key not in LIVE_FIELDS}
    data = {"name": recipe.dataset, **{key: value for key, value in recipe.resolved_data.items() if key != "root"}}
    facts = {"family": recipe.name.partition("/")[0], "model": to_dict(config), "data": data, "training": training}
    return json.loads(json.dumps({**facts, "pretrained": pretrained}, default=str))


def _trained(plan: Plan, factor: Factor, base: tuple[Cell, ...], known: dict[str, Cell]) -> list[Setting]:
    settings = []
    for value in factor.values:
        cells = tuple(
            _cell(f"{factor.name}={words(value)}", _changed(plan, factor.name, value, seed), plan, known)
            for seed in range(plan.seeds)
        )
        settings.append(Setting(factor.name, value, cells, cells == base))
    if not any(setting.is_base for setting in settings):
        settings.insert(0, Setting(factor.name, _base_value(plan, factor.name), base, True))
        if all(isinstance(s.value, (int, float)) and not isinstance(s.value, bool) for s in settings):
            settings.sort(key=lambda setting: setting.value)
    return settings


def _changed(plan: Plan, name: str, value: Any, seed: int) -> Recipe:
    if name == VARIANT:
        return plan.recipe(variant="" if value == BARE else str(value), seed=seed)
    return plan.recipe(assignment(name, value), seed=seed)


def _base_value(plan: Plan, name: str) -> Any:
    """What the base has of a factor that is not a dial."""
    recipe = plan.recipe()
    section, _, key = name.partition(".")
    if name == VARIANT:
        return resolve(plan.name)[0].variant or BARE
    if section == "training":
        return getattr(recipe.training, key)
    if section == "data":
        return recipe.dataset if key == "name" else recipe.resolved_data.get(key)
    config = model_config(recipe.name, **recipe.model)
    fields = field_names(type(config))
    return getattr(config, fields.get(name, fields.get(key, key)))


def _cell(title: str, recipe: Recipe, plan: Plan, known: dict[str, Cell]) -> Cell:
    facts = facts_of(recipe, pretrained=plan.pretrained)
    identity = json.dumps(facts, sort_keys=True)
    if identity not in known:
        known[identity] = Cell(f"{file_name(title)}/seed-{recipe.training.seed}", recipe, facts)
    return known[identity]


def file_name(title: str) -> str:
    """As it is where it makes a file name; else what is left of it, and a hash that tells it from others."""
    plain = re.sub(r"[^\w.=+-]+", "-", title, flags=re.ASCII)[:80]
    return plain if plain == title else f"{plain}-{hashlib.sha256(title.encode()).hexdigest()[:8]}"


def differences(old: Mapping[str, Any], new: Facts) -> Iterator[str]:
    """``model.depth: 4 there, 6 now`` for all that differs; a field that a later moezoo has added does not count."""
    for part, now in new.items():
        before = old.get(part, now)
        if isinstance(now, dict) and isinstance(before, dict):
            for key, value in before.items():
                if value != now.get(key):
                    yield f"{part}.{key}: {value!r} there, {now.get(key)!r} now"
        elif before != now:
            yield f"{part}: {before!r} there, {now!r} now"
