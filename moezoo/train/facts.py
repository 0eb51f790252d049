"""What a run is about: what has to be the same for it to be gone on with, and what may differ with a warning."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from torch import nn

from moezoo.config import to_dict
from moezoo.data import ImageTensors
from moezoo.errors import CheckpointError, MoeZooWarning
from moezoo.train.config import LIVE_FIELDS, TrainingConfig
from moezoo.train.digest import digest
from moezoo.train.parallel import own_type
from moezoo.train.tasks import AnySplits

FILES_LOOKED_AT = 1000
"""File names of a data set that its fingerprint is made of, spread over it."""


def run_facts(
    model: nn.Module,
    splits: AnySplits,
    data_options: Mapping[str, Any] | None = None,
    task: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain JSON-like data: the model's configuration, or its shapes, the data set's fingerprint, and the task.

    Args:
        data_options: The options the data set was loaded with, where they are known. ``root`` does not count: data
            may be moved, and what lies there has a fingerprint.
        task: Its :meth:`~moezoo.train.tasks.Task.facts`.
    """
    name, config = getattr(model, "moezoo_name", None), getattr(model, "moezoo_config", None)
    about_model: dict[str, Any] = {"class": own_type(model).__name__}
    if name is not None and dataclasses.is_dataclass(config) and not isinstance(config, type):
        # Of one model's names, some are short: what it is stands in the configuration.
        about_model = {"family": name.partition("/")[0], **to_dict(config)}
    about_model["parameters"] = digest([[n, list(p.shape)] for n, p in model.named_parameters()])
    parts = {part: len(found) for part in ("train", "val", "test") if (found := getattr(splits, part)) is not None}
    options = json.loads(json.dumps(data_options or {}, default=str))
    options.pop("root", None)
    data = {"name": splits.name, **parts, "label_names": digest(getattr(splits, "label_names", ()))}
    data["content"] = _content(splits.train)
    return {"model": about_model, "data": {**data, **options}, "task": dict(task or {})}


def check_facts(
    saved: Mapping[str, Any],
    saved_config: Mapping[str, Any],
    saved_world: int,
    *,
    facts: Mapping[str, Any],
    config: TrainingConfig,
    world: int,
) -> None:
    """Compare what a checkpoint was about with what the resumed run is about.

    Raises:
        CheckpointError: Model, data set or seed differ: the result would be neither run's. All differences are named.
    """
    now = to_dict(config)
    # A field that a later moezoo has added stands at what was done before; an option of a data set was given or not.
    known = {key: value for key, value in facts["model"].items() if key in saved["model"]}
    # Before there were several tasks, nothing was said of the only one.
    task = saved.get("task", facts["task"])
    pairs = {"model": (saved["model"], known), "data": (saved["data"], facts["data"]), "task": (task, facts["task"])}
    wrong = [
        f"{section}.{key}: {old!r} in the checkpoint, {new!r} now"
        for section, (before, after) in pairs.items()
        for key, old, new in _differences(before, after)
    ]
    if saved_config["seed"] != now["seed"]:
        wrong.append(f"training.seed: {saved_config['seed']} in the checkpoint, {now['seed']} now")
    if wrong:
        raise CheckpointError(
            f"the run cannot be gone on with, since it would not be the same run: {'; '.join(wrong)}. Set them as they "
            "were, or begin afresh in another folder."
        )
    changed = [
        f"{key}: {old!r} in the checkpoint, {new!r} now"
        for key, old, new in _differences(saved_config, now)
        if key in saved_config and key not in LIVE_FIELDS
    ]
    if saved_world != world:
        changed.append(f"processes: {saved_world} in the checkpoint, {world} now")
    if changed:
        warnings.warn(
            f"the run goes on with other settings than it had, and will not repeat what it would have been: "
            f"{'; '.join(changed)}",
            MoeZooWarning,
            stacklevel=2,
        )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    keys = [*old, *(key for key in new if key not in old)]
    return [(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key)]


def _content(dataset: Any) -> str:
    """Labels where they are at hand, file names and captions where the data set knows them; of a black box nothing."""
    if isinstance(dataset, ImageTensors):
        return digest(dataset.labels.tolist())
    name = getattr(dataset, "describe", None)
    if not callable(name):
        return ""
    looked_at = range(0, len(dataset), max(len(dataset) // FILES_LOOKED_AT, 1))
    names = [PurePath(name(index)).name for index in looked_at]
    captions = getattr(dataset, "captions", None)
    return digest([names, *([list(captions(i)) for i in looked_at])] if callable(captions) else names)
