"""Trainings whose figures are kept in a file each, so that a benchmark of many goes on where it was stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moezoo.train import Recipe


def places(folder: Path, name: str, variant: str, seed: int) -> tuple[Path, Path]:
    """The folder of a run, and its figures."""
    stem = f"{name}-{variant.replace(' ', '_')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / stem, folder / f"{stem}.json"


def in_full(recipe: Recipe) -> str:
    """The recipe with every value that is left at its default, the model's too."""
    from moezoo import model_config

    return recipe.to_yaml(model_config(recipe.name, **recipe.model))


def read_figures(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Of a run that is done, ``None`` if it is not; raises ``SystemExit`` if it was of another recipe."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("recipe") != in_full(recipe):
        raise SystemExit(f"{path} was made by another recipe: remove it, or take another --folder")
    return found
