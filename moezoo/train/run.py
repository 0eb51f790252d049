"""From a recipe to a trained model in a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from moezoo.data import Splits, input_options, load_dataset
from moezoo.errors import ConfigError
from moezoo.factory import create_model
from moezoo.hub.save import save_pretrained
from moezoo.names import is_stored_name
from moezoo.train.device import is_main_process
from moezoo.train.loop import fit
from moezoo.train.output import probe_folder, write_text
from moezoo.train.progress import Observer
from moezoo.train.recipe import Recipe
from moezoo.train.result import TrainingResult
from moezoo.train.seeding import seeded


@dataclass(frozen=True)
class TrainedRun:
    """A finished run and where it lies."""

    recipe: Recipe
    model: nn.Module
    """With the chosen weights, in evaluation mode."""
    splits: Splits
    result: TrainingResult
    folder: Path


def create_for(
    recipe: Recipe, *, pretrained: bool | str = False, checkpoint: str | Path | None = None
) -> tuple[nn.Module, Splits]:
    """The recipe's model and its data set, prepared for that model.

    Args:
        recipe: Which model and data set.
        pretrained: As in :func:`moezoo.create_model`; a stored model is always loaded with its weights.
        checkpoint: A ``.safetensors`` file to load at the end.

    Raises:
        ConfigError: The model and the data set do not have the same number of classes.
    """
    with seeded(recipe.training.seed):
        model = create_model(
            recipe.name, pretrained or is_stored_name(recipe.name), checkpoint_path=checkpoint, **recipe.model
        )
    splits = load_dataset(recipe.dataset, **{**input_options(model), **recipe.data_options})
    classes = getattr(model, "num_classes", splits.num_classes)
    if classes != splits.num_classes:
        raise ConfigError(
            f"num_classes={classes} does not fit the data set {splits.name!r}, which has "
            f"{splits.num_classes} classes: --set num_classes={splits.num_classes}."
        )
    return model, splits


def train_recipe(
    recipe: Recipe, out: str | Path, *, pretrained: bool | str = False, observer: Observer | None = None
) -> TrainedRun:
    """Create, train and save a model.

    The folder gets ``config.yaml`` (the recipe in full), ``metrics.jsonl``, ``metrics.json`` and what
    :func:`moezoo.save_pretrained` writes.

    Args:
        recipe: From :func:`~moezoo.train.recipe.resolve_recipe`.
        out: The run's folder.
        pretrained: As in :func:`moezoo.create_model`.
        observer: As in :func:`~moezoo.train.loop.fit`.

    Raises:
        OutputError: The folder cannot be written; found before anything is built or trained.
    """
    folder = probe_folder(out)
    model, splits = create_for(recipe, pretrained=pretrained)
    write_text(folder / "config.yaml", recipe.to_yaml(getattr(model, "moezoo_config", None)))
    result = fit(model, splits, recipe.training, out=folder, observer=observer)
    model.to("cpu")
    metrics = {
        "dataset": splits.name,
        "test_top1": round(result.test.classification.top1, 4),
        "val_top1": round(result.best.val_accuracy, 4),
        "test_calibration_error": round(result.test.classification.calibration_error, 4),
        "epochs": recipe.training.epochs,
        "seed": recipe.training.seed,
    }
    model.label_names = splits.label_names  # type: ignore[assignment]
    if is_main_process():
        save_pretrained(model, folder, metrics=metrics, label_names=splits.label_names)
    return TrainedRun(recipe, model, splits, result, folder)
