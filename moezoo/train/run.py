"""From a recipe to a trained model in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from moezoo.data import ReidSplits, Splits, input_options, load_dataset
from moezoo.errors import ConfigError, MoeZooError
from moezoo.eval import Evaluation
from moezoo.eval.part import check_modalities
from moezoo.factory import create_model
from moezoo.hub.save import save_pretrained
from moezoo.measure.flops import flops
from moezoo.moe.layer import MoELayer
from moezoo.names import did_you_mean, is_stored_name
from moezoo.registry import build
from moezoo.train.checkpoint.ranks import on_main
from moezoo.train.device import make_accelerator
from moezoo.train.folder import open_run
from moezoo.train.loop import train
from moezoo.train.parallel import lost_processes
from moezoo.train.progress import EpochHook, Observer
from moezoo.train.recipe import Recipe
from moezoo.train.result import TrainingResult
from moezoo.train.seeding import seeded
from moezoo.train.tasks import AnySplits, choose_task

FLOPS_IMAGES = 8
"""Test images over which the executed FLOPs on the card are averaged."""


@dataclass(frozen=True)
class TrainedRun:
    """A finished run and where it lies."""

    recipe: Recipe
    model: nn.Module
    """With the chosen weights, in evaluation mode."""
    splits: AnySplits
    result: TrainingResult
    folder: Path


def create_for(
    recipe: Recipe, *, pretrained: bool | str = False, checkpoint: str | Path | None = None
) -> tuple[nn.Module, AnySplits]:
    """The recipe's model and its data set, prepared for that model.

    A fresh model for re-identification gets as many classes as there are identities to learn, unless the recipe says
    how many.

    Args:
        recipe: Which model and data set.
        pretrained: As in :func:`moezoo.create_model`; a stored model is always loaded with its weights.
        checkpoint: A ``.safetensors`` file to load at the end.

    Raises:
        ConfigError: The data set is of no kind that the model can be trained on (labels, captions for one that takes
            text, identities for one that takes modalities), or has not as many classes as the model; or ``viz.layer``
            is none of its MoE layers, where it has some.
    """
    with seeded(recipe.training.seed):
        model = create_model(
            recipe.name, pretrained or is_stored_name(recipe.name), checkpoint_path=checkpoint, **recipe.model
        )
    _check_layer(model, recipe.viz.layer)
    splits = load_dataset(recipe.dataset, **{**input_options(model, recipe.dataset), **recipe.data_options})
    choose_task(model, splits, recipe.training)
    if isinstance(splits, Splits):
        classes = getattr(model, "num_classes", splits.num_classes)
        if classes != splits.num_classes:
            raise ConfigError(
                f"num_classes={classes} does not fit the data set {splits.name!r}, which has "
                f"{splits.num_classes} classes: --set num_classes={splits.num_classes}."
            )
    if isinstance(splits, ReidSplits):
        check_modalities(model, splits)
        fresh = checkpoint is None and not is_stored_name(recipe.name) and "num_classes" not in recipe.model
        if fresh and model.num_classes != splits.num_identities:
            with seeded(recipe.training.seed):
                model.reset_classifier(splits.num_identities)  # type: ignore[operator]
    return model, splits


def _check_layer(model: nn.Module, layer: str | None) -> None:
    """The pictures are drawn when the training is over, too late to learn of a slip in a name."""
    names = [name for name, module in model.named_modules() if isinstance(module, MoELayer)]
    if layer is not None and names and not any(name == layer or name.startswith(f"{layer}.") for name in names):
        raise ConfigError(
            f"viz.layer={layer!r} is no MoE layer of the model.{did_you_mean(layer, names)} Layers: {', '.join(names)}."
        )


def train_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    pretrained: bool | str = False,
    observer: Observer | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    on_epoch: EpochHook | None = None,
) -> TrainedRun:
    """Create, train and save a model.

    The folder gets ``config.yaml`` (the recipe in full), what :func:`~moezoo.train.fit` writes and what
    :func:`moezoo.save_pretrained` writes.

    Args:
        recipe: From :func:`~moezoo.train.recipe.resolve_recipe`.
        out: The run's folder.
        pretrained: As in :func:`moezoo.create_model`.
        observer: As in :func:`~moezoo.train.fit`.
        resume: As in :func:`~moezoo.train.fit`.
        overwrite: As in :func:`~moezoo.train.fit`.
        on_epoch: As in :func:`~moezoo.train.fit`.

    Raises:
        OutputError: The folder cannot be written, or holds a run; found before anything is built or trained.
    """
    accelerator = make_accelerator(recipe.training)
    data_options = recipe.resolved_data  # a wrong one is found before anything is built
    with lost_processes(), open_run(out, resume=resume, overwrite=overwrite) as folder:
        assert folder is not None
        model, splits = create_for(recipe, pretrained=pretrained)
        result = train(
            model,
            splits,
            recipe.training,
            accelerator,
            folder=folder,
            observer=observer,
            on_epoch=on_epoch,
            data_options=data_options,
            recipe=recipe.to_yaml(getattr(model, "moezoo_config", None), pretrained=pretrained),
        )
        model.to("cpu")
        if isinstance(splits, Splits):
            model.label_names = splits.label_names  # type: ignore[assignment]
        on_main(lambda: _save(model, folder.path, _figures(recipe, splits, result), splits, result))
    return TrainedRun(recipe, model, splits, result, folder.path)


def _save(model: nn.Module, path: Path, figures: dict[str, Any], splits: AnySplits, result: TrainingResult) -> None:
    images = torch.stack([splits.test[i][0] for i in range(min(len(splits.test), FLOPS_IMAGES))])  # type: ignore[arg-type]
    save_pretrained(
        model,
        path,
        metrics=figures,
        label_names=getattr(splits, "label_names", None),
        routing=result.test.routing or None,
        flops=_cost(model, images) or None,
    )


def _cost(model: nn.Module, images: torch.Tensor) -> dict[str, int]:
    """Executed FLOPs of one of ``images``, and the dense twin's."""
    cost: dict[str, int] = {}
    with contextlib.suppress(MoeZooError):  # a model that cannot be counted (a compiled one) is saved all the same
        cost["executed"] = round(flops(model, images).executed / len(images))
        config: Any = getattr(model, "moezoo_config", None)
        if getattr(config, "dense", None) is False:
            with torch.device("meta"):
                twin = build(dataclasses.replace(config, dense=True)).eval()
            cost["dense_twin"] = round(flops(twin, images.to("meta")).executed / len(images))
    return cost


def _figures(recipe: Recipe, splits: AnySplits, result: TrainingResult) -> dict[str, Any]:
    """What the model's card says about the run."""
    best, figures = result.best, main_figures(result.test)
    if best.judged_on == "val":
        figures[f"val_{'top1' if best.score_name == 'accuracy' else best.score_name}"] = best.score
    if result.last is not None and result.last is not result.test:
        figures |= {f"last_epoch_{name}": figure for name, figure in main_figures(result.last).items()}
    return {
        "dataset": splits.name,
        **{name: round(figure, 4) for name, figure in figures.items() if math.isfinite(figure)},
        "epochs": recipe.training.epochs,
        "seed": recipe.training.seed,
    }


def main_figures(test: Evaluation) -> dict[str, float]:
    """The main figures of a test, by name."""
    figures: dict[str, float] = {}
    if (found := test.classification) is not None:
        figures |= {"test_top1": found.top1, "test_calibration_error": found.calibration_error}
    if (text := test.text) is not None:
        figures |= {"test_zero_shot": text.zero_shot, "label_text_upper_bound": text.label_text_upper_bound}
    if (both := test.retrieval) is not None:
        ways = {"image_to_text": both.image_to_text, "text_to_image": both.text_to_image}
        figures |= {f"test_{way}_r1": recall.r1 for way, recall in ways.items()}
    if (found_again := test.reid) is not None:
        figures |= {f"test_{kind}": getattr(found_again, kind) for kind in ("mAP", "r1", "r5", "r10", "mINP")}
    if (written := test.captions) is not None:
        figures |= {f"test_{kind}": getattr(written, kind) for kind in ("exact_match", "bleu", "chrf")}
    return figures
