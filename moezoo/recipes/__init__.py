"""Recipes: how a registered model is trained, as YAML: ``recipes/<family>/<arch>.yaml``. No torch here."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from moezoo.config import from_yaml


def find_recipe(base: str) -> dict[str, Any] | None:
    """The recipe of ``family/arch`` as nested plain data; ``None`` when there is none."""
    family, _, arch = base.partition("/")
    path = files(__name__) / family / f"{arch}.yaml"
    if not path.is_file():
        return None
    return from_yaml(path.read_text(encoding="utf-8"), where=f"recipe {family}/{arch}")


def list_recipes() -> list[str]:
    """Every ``family/arch`` that has a recipe."""
    folders = [folder for folder in files(__name__).iterdir() if folder.is_dir()]
    return sorted(
        f"{folder.name}/{path.name.removesuffix('.yaml')}"
        for folder in folders
        for path in folder.iterdir()
        if path.name.endswith(".yaml")
    )
