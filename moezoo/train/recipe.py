"""A recipe put together: the model's own < ``--config FILE`` < ``--set key=value``."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.config import (
    STRICT,
    decode,
    field_names,
    merge,
    option,
    parse_assignments,
    read_yaml,
    to_dict,
    to_yaml,
)
from moezoo.data import resolved_options
from moezoo.errors import ConfigError, MoeZooWarning
from moezoo.names import did_you_mean, is_stored_name
from moezoo.recipes import find_recipe, list_recipes
from moezoo.registry import model_config, resolve
from moezoo.train.config import TrainingConfig

SECTIONS = ("model", "data", "training", "viz")


@dataclass(frozen=True)
class VizConfig:
    """The ``viz`` section: what the pictures show."""

    __pydantic_config__ = STRICT

    images: int = option(8, "images in the routing picture")
    layer: str | None = option(None, "MoE layer in the routing picture; null takes the last")
    dpi: int = option(160, "pixels per inch of the files")
    every: int = option(0, "epochs between pictures of the routing of the same test images; 0: none while training")

    def __post_init__(self) -> None:
        if self.images < 1 or not 30 <= self.dpi <= 1200:
            raise ConfigError(f"images={self.images} must be at least 1 and dpi={self.dpi} from 30 to 1200.")
        if self.every < 0:
            raise ConfigError(f"every={self.every} is not allowed: it must be at least 0.")


@dataclass(frozen=True)
class Recipe:
    """Everything a run needs to know."""

    name: str
    """The model's name."""
    model: Mapping[str, Any]
    """Overrides of the model's configuration."""
    dataset: str
    data_options: Mapping[str, Any]
    training: TrainingConfig
    viz: VizConfig

    @property
    def resolved_data(self) -> dict[str, Any]:
        """The options of the data set with every default filled in, but for what a model says about its images."""
        return resolved_options(self.dataset, self.data_options)

    def to_yaml(self, model: Any = None, *, pretrained: bool | str = False) -> str:
        """The recipe as a file for ``--config``, with every value that was left at its default.

        Args:
            model: The built model's configuration, to be written out in full.
            pretrained: Whether the run began with pretrained weights, which the command has to say again.
        """
        sections = {
            "model": to_dict(model) if model is not None else dict(self.model),
            "data": {"name": self.dataset, **self.resolved_data},
            "training": to_dict(self.training),
            "viz": to_dict(self.viz),
        }
        command = f"moezoo train {self.name} --config config.yaml{' --pretrained' if pretrained else ''}"
        return f"# {command}\n{to_yaml(sections)}"


def resolve_recipe(
    name: str, *, file: str | Path | None = None, assignments: Sequence[str] = (), needs_data: bool = True
) -> Recipe:
    """Merge and check the recipe of ``name``.

    Args:
        name: A model's name. ``local-dir:PATH`` takes the ``config.yaml`` in that folder.
        file: YAML with some of the sections ``model``, ``data``, ``training``, ``viz``.
        assignments: ``section.key=value``, the value in YAML. A key of the model needs no section.
        needs_data: ``False`` lets ``dataset`` be ``""`` where nothing names one.

    Raises:
        UnknownModelError: No such model.
        ConfigError: An unknown section or key, with the nearest spelling, or a value that is not allowed.
    """
    stored = is_stored_name(name)
    overlays = [_stored_recipe(name) if stored else find_recipe(str(resolve(name)[0])) or {}]
    if file is not None:
        overlays.append(read_yaml(file))
        _check_sections(overlays[-1])
        if not stored:
            _warn_of_another_variant(name, overlays[-1].get("model", {}), file)
    keys = field_names(type(model_config(name))) if not stored else {}
    overlays.append(_with_sections(parse_assignments(list(assignments)), keys))
    for overlay in overlays:
        _check_sections(overlay)
    if keys:
        overlays = [{**each, "model": _flat(each["model"], keys)} if "model" in each else each for each in overlays]
    merged = merge({section: {} for section in SECTIONS}, *overlays)
    data = dict(merged["data"])
    dataset = data.pop("name", None if needs_data else "")
    if not isinstance(dataset, str):
        raise ConfigError(
            f"no data set for {name!r}: give one with --set data.name=digits. "
            f"Recipes exist for: {', '.join(list_recipes())}."
        )
    if not stored:
        model_config(name, **merged["model"])  # finds a bad model key before anything is loaded or built
    return Recipe(
        name=name,
        model=merged["model"],
        dataset=dataset,
        data_options=data,
        training=decode(TrainingConfig, _fitting_warmup(merged["training"], overlays[1:]), where="training"),
        viz=decode(VizConfig, merged["viz"], where="viz"),
    )


def _fitting_warmup(training: Mapping[str, Any], given: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A run that is made shorter than its recipe's gets a warm-up of half of it at most, unless one was asked for."""
    asked = any("warmup_epochs" in overlay.get("training", {}) for overlay in given)
    epochs = training.get("epochs", TrainingConfig.epochs)
    warmup = training.get("warmup_epochs", TrainingConfig.warmup_epochs)
    if asked or type(epochs) is not int or epochs < 1 or not isinstance(warmup, (int, float)) or warmup <= epochs / 2:
        return dict(training)
    return {**training, "warmup_epochs": epochs / 2}


def _stored_recipe(name: str) -> dict[str, Any]:
    """The recipe of the run that made a local folder, but for the model, which is configured there already."""
    if not name.startswith("local-dir:"):
        return {}
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"{name!r}: there is no folder {str(folder)!r}")
    path = folder / "config.yaml"
    if not path.is_file():
        return {}
    recipe = read_yaml(path)
    _check_sections(recipe)
    return {section: recipe[section] for section in SECTIONS if section in recipe and section != "model"}


def _warn_of_another_variant(name: str, given: Mapping[str, Any], file: str | Path) -> None:
    """A run's ``config.yaml`` is complete: under another variant's name it still gives the model it is of."""
    own, bare = (to_dict(model_config(n)) for n in (name, resolve(name)[0].base))
    fields = field_names(type(model_config(name)))
    undone = [
        f"{key}={value!r}"
        for key, value in given.items()
        if (field := fields.get(key, key)) in own and own[field] != bare[field] and own[field] != value
    ]
    if undone:
        warnings.warn(
            f"{str(file)!r} goes before the name {name!r} and makes another model of it: {', '.join(undone)}. Leave "
            "them out of the file to get the variant.",
            MoeZooWarning,
            stacklevel=3,
        )


def _with_sections(given: Mapping[str, Any], model_keys: Mapping[str, str]) -> dict[str, Any]:
    """``{"num_experts": 8}`` to ``{"model": {"num_experts": 8}}``."""
    result: dict[str, Any] = {}
    for key, value in _unfolded(given, model_keys):
        inside = key in SECTIONS
        if inside and not isinstance(value, Mapping):
            raise ConfigError(f"--set {key}={value!r}: {key!r} is a section, of keys such as {key}.key=value")
        if not inside and key not in model_keys:
            options = [
                *SECTIONS,
                *model_keys,
                *(f"training.{f.name}" for f in dataclasses.fields(TrainingConfig)),
                *(f"viz.{f.name}" for f in dataclasses.fields(VizConfig)),
                "data.name",
            ]
            same = [option for option in options if option.endswith(f".{key}")]
            stored = "" if model_keys else f" Of a stored model: --set model.{key}=…"
            hint = f" Did you mean: {', '.join(same)}?" if same else did_you_mean(key, options)
            raise ConfigError(f"--set {key!r}: no such key.{hint} Sections: {', '.join(SECTIONS)}.{stored}")
        result = merge(result, {key: value} if inside else {"model": {key: value}})
    return result


def _unfolded(given: Mapping[str, Any], model_keys: Mapping[str, str]) -> Iterator[tuple[str, Any]]:
    """``{"dataset": {"input_size": 64}}``, where that is no section, as the dotted name of a field of the model."""
    for key, value in given.items():
        if key not in SECTIONS and key not in model_keys and isinstance(value, Mapping):
            yield from ((model_keys.get(path, path), leaf) for path, leaf in _leaves(value, key))
        else:
            yield key, value


def _flat(model: Mapping[str, Any], keys: Mapping[str, str]) -> dict[str, Any]:
    """``{"router": {"mode": …}}`` under the field whose dotted name is ``router.mode`` or ``model.router.mode``."""
    result: dict[str, Any] = {}
    for key, value in model.items():
        if key in keys or not isinstance(value, Mapping):
            result[key] = value
        else:
            for path, leaf in _leaves(value, key):
                result[keys.get(path, keys.get(f"model.{path}", path))] = leaf
    return result


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}.{key}")
        else:
            yield f"{prefix}.{key}", value


def _check_sections(recipe: Mapping[str, Any]) -> None:
    for section, content in recipe.items():
        if section not in SECTIONS:
            raise ConfigError(
                f"unknown section {section!r}.{did_you_mean(str(section), SECTIONS)} Sections: {', '.join(SECTIONS)}."
            )
        if not isinstance(content, Mapping):
            raise ConfigError(f"section {section!r} must be a mapping of keys to values, got {content!r}")
