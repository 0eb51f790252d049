"""The recipe for a model whose weights lie in one file: the file says how the model is built."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from moezoo.config import field_names, to_dict
from moezoo.errors import ConfigError, WeightsUnavailable
from moezoo.hub.header import check_suffix, header_shapes
from moezoo.hub.single_file import SingleFile, read_single_file
from moezoo.registry import model_config
from moezoo.train.recipe import Recipe

PICKLES = (".pth", ".pt", ".bin", ".ckpt")


def recipe_for_file(recipe: Recipe, usual: Recipe, path: str | Path) -> Recipe:
    """``recipe`` with the model of ``path``, an older run's file, in place of its own. No weight is read.

    A file that says nothing about its model, as one converted from a pickle, leaves the recipe as it is.

    Args:
        recipe: What the user asks for.
        usual: The same without what the user gave, to know which fields of the model were asked for.
        path: A ``.safetensors`` file.

    Raises:
        ConfigError: It is another kind of file, was trained on another data set, or is of another model than the one
            asked for.
        WeightsUnavailable: There is no such file; the message says what was looked for, and what lies there instead.
        WeightsCorrupted: It is no sound safetensors file.
    """
    if Path(path).is_dir():
        raise WeightsUnavailable(f"{str(path)!r} is a folder, where a .safetensors file is read{_inside(Path(path))}")
    path = check_suffix(path)
    if not path.is_file():
        raise WeightsUnavailable(f"there is no checkpoint {str(path)!r}{_instead(path)}")
    header_shapes(path)  # a damaged file is found before anything is built
    found = read_single_file(path)
    if found is None:
        return recipe
    if found.dataset != recipe.dataset:
        raise ConfigError(
            f"{str(path)!r} holds {found.name}, trained on the data set {found.dataset!r}; it cannot be tested on "
            f"{recipe.dataset!r}. Ask for {found.dataset!r}, or give the checkpoint of a model of {recipe.dataset!r}."
        )
    _refuse_another(recipe, usual, found)
    return dataclasses.replace(recipe, name=found.name, model=to_dict(found.config))


def _refuse_another(recipe: Recipe, usual: Recipe, found: SingleFile) -> None:
    """What was asked of the model must be what the file's model is."""
    config = model_config(recipe.name, **recipe.model)
    if type(config) is not type(found.config):
        family = recipe.name.partition("/")[0]
        raise ConfigError(f"{str(found.path)!r} holds {found.name}, which is no {family} model.")
    wanted, plain, own = (to_dict(each) for each in (config, model_config(usual.name, **usual.model), found.config))
    fields = field_names(type(config))
    asked = {fields.get(key, key) for key in recipe.model if key not in usual.model}  # be it what it is anyway
    wrong = [
        f"{key}={value!r} was asked for, the checkpoint has {own.get(key)!r}"
        for key, value in wanted.items()
        if value != own.get(key) and (key in asked or value != plain.get(key))
    ]
    if wrong:
        raise ConfigError(
            f"{str(found.path)!r} holds another model: {'; '.join(wrong)}. Leave them out: the checkpoint says how "
            "its model is built."
        )


def _instead(path: Path) -> str:
    pickled = [path.with_suffix(suffix) for suffix in PICKLES if path.with_suffix(suffix).is_file()]
    if pickled:
        return f", but a pickle of that name: 'moezoo convert pth {pickled[0]}' makes one of it"
    return f"{_inside(path.parent)}. Training writes one"


def _inside(folder: Path) -> str:
    files = sorted(path.name for path in folder.glob("*.safetensors")) if folder.is_dir() else []
    return f". In that folder: {', '.join(files) or 'no .safetensors file'}"
