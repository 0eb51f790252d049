"""The flags and the file of attention routing's document (``--training.num_epochs 3``) as a name and a recipe."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.config import field_names, parse_assignments, read_yaml
from moezoo.data.signature import option_names
from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice
from moezoo.names import did_you_mean
from moezoo.parts import datasets
from moezoo.registry import list_models, model_config, resolve
from moezoo.train import Recipe, TrainingConfig, VizConfig, resolve_recipe

FAMILY = "attention_routing"
DATASET, MODEL = "dataset.name", "model.name"
TRAINING_WORDS = {"num_epochs": "epochs", "learning_rate": "lr"}
"""The document's words for keys of the ``training`` section."""
USUAL_DATASET = "cifar10"


@dataclass(frozen=True)
class Documented:
    """What the document's flags and file ask for."""

    dataset: str
    model: str | None
    """One of :func:`model_names`; ``None`` if none was asked for."""
    assignments: tuple[str, ...]
    """``key=value`` as ``--set`` takes it; the file's first."""

    def name(self, model: str | None = None) -> str:
        """The registered name of ``model``, by default of the one that is asked for."""
        variant = model or self.model or FAMILY
        return f"{FAMILY}/{self.dataset}" + ("" if variant == FAMILY else f".{variant}")

    def recipe(self, model: str | None = None) -> Recipe:
        """The recipe of ``model``, with all that was asked for."""
        return resolve_recipe(self.name(model), assignments=self.assignments)

    def usual(self, model: str | None = None) -> Recipe:
        """The same, with nothing asked for."""
        return resolve_recipe(self.name(model))


def dataset_names() -> list[str]:
    """Data sets that the family has a model of."""
    archs = {name.partition("/")[2].partition(".")[0]: None for name in list_models(family=FAMILY)}
    return [arch for arch in archs if arch in datasets]


def model_names(dataset: str) -> list[str]:
    """The document's names of the models of a data set: the routing one, the baselines and the controls."""
    entry = resolve(f"{FAMILY}/{dataset}")[1]
    return [FAMILY, *(entry.variants if entry is not None else ())]


def read_documented(words: Sequence[str], file: Path | None) -> Documented:
    """``--config FILE`` and the dotted flags, which go before it.

    Args:
        words: What stands on the command line besides the plain flags.
        file: YAML with the document's sections ``dataset``, ``model`` and ``training``.

    Raises:
        ConfigError: A flag or key is unknown, with the nearest spelling, has no value or is given twice; or the data
            set or the model is none of the family's.
    """
    sources: list[tuple[str, list[tuple[str, Any]]]] = []
    if file is not None:
        sources.append((f"{file}: ", list(_flat(read_yaml(file)))))
    sources.append(("--", list(_flags(words))))
    named = {path: value for _, pairs in sources for path, value in pairs if path in (DATASET, MODEL)}
    dataset = check_choice(DATASET, named.get(DATASET, USUAL_DATASET), dataset_names())
    model = named.get(MODEL)
    if model is not None:
        check_choice(MODEL, model, model_names(dataset))
    keys = _keys(dataset)
    assignments = []
    for where, pairs in sources:
        seen: dict[str, str] = {}
        for path, value in pairs:
            key = _key(path, keys, where)
            if key in seen:
                raise ConfigError(f"{where}{path}: given twice, once as {seen[key]}")
            seen[key] = path
            if path not in (DATASET, MODEL):
                assignments.append(f"{key}={json.dumps(value, default=str)}")
    return Documented(dataset, model, tuple(assignments))


def _key(path: str, keys: Mapping[str, str], where: str) -> str:
    if path not in keys:
        kind = "flag" if where == "--" else "key"
        hint = did_you_mean(path, [*keys, "config", "mode"] if where == "--" else keys)
        raise ConfigError(
            f"{where}{path}: no such {kind}.{hint} Those of the document: dataset.name, dataset.input_size, "
            "dataset.patch_grid_size, model.name, model.router.mode, model.router.threshold_init, "
            "model.router.temperature, training.batch_size, training.num_epochs, training.learning_rate; further ones "
            "are model.KEY, training.KEY, viz.KEY and dataset.KEY."
        )
    return keys[path]


def _keys(dataset: str) -> dict[str, str]:
    """Every accepted path, and what ``--set`` calls it."""
    keys = {DATASET: DATASET, MODEL: MODEL}
    keys |= {f"dataset.{key}": f"data.{key}" for key in option_names(datasets.get(dataset))}
    for name, field in field_names(type(model_config(f"{FAMILY}/{dataset}"))).items():
        keys[name if name.startswith(("dataset.", "model.")) else f"model.{name}"] = f"model.{field}"
    keys |= {f"training.{field.name}": f"training.{field.name}" for field in dataclasses.fields(TrainingConfig)}
    keys |= {f"training.{word}": f"training.{field}" for word, field in TRAINING_WORDS.items()}
    return keys | {f"viz.{field.name}": f"viz.{field.name}" for field in dataclasses.fields(VizConfig)}


def _flat(content: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """``{"model": {"router": {"mode": …}}}`` as ``model.router.mode``."""
    for key, value in content.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


def _flags(words: Iterable[str]) -> Iterator[tuple[str, Any]]:
    """``--a.b value`` and ``--a.b=value``; values are YAML."""
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} stands alone: flags are --section.key value")
        path, sign, value = word[2:].partition("=")
        if not sign:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{path} has no value")
            value = rest.pop(0)
        yield path, parse_assignments([f"x={value}"], f"--{path}")["x"]
