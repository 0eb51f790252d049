"""Recipes: how a registered model is trained, as YAML: ``recipes/<family>/<arch>.yaml``. No torch here.

A variant that is trained another way, such as a captioner, has ``<arch>.<variant>.yaml``. What an ablation of a family
varies stands in ``<family>/ablation.yaml``.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from moezoo.config import from_yaml

ABLATION = "ablation"
"""Such a file is no recipe: no model may have this name."""


def find_recipe(name: str) -> dict[str, Any] | None:
    """The recipe of ``family/arch[.variant]`` as nested plain data, the variant's own or else the architecture's;
    ``None`` when there is neither."""
    family, _, arch = name.partition("/")
    for own in dict.fromkeys((arch, arch.partition(".")[0])):
        path = files(__name__) / family / f"{own}.yaml"
        if path.is_file():
            return from_yaml(path.read_text(encoding="utf-8"), where=f"recipe {family}/{own}")
    return None


def find_ablation(family: str) -> dict[str, Any]:
    """What ``moezoo ablate`` varies of a family, as nested plain data; empty when the family says nothing."""
    path = files(__name__) / family / f"{ABLATION}.yaml"
    return from_yaml(path.read_text(encoding="utf-8"), where=f"recipe {family}/{ABLATION}") if path.is_file() else {}


def list_recipes() -> list[str]:
    """Every ``family/arch`` that has a recipe, and every variant that has one of its own."""
    folders = [folder for folder in files(__name__).iterdir() if folder.is_dir()]
    return sorted(
        f"{folder.name}/{path.name.removesuffix('.yaml')}"
        for folder in folders
        for path in folder.iterdir()
        if path.name.endswith(".yaml") and path.name != f"{ABLATION}.yaml"
    )
