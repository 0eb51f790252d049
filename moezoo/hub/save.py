"""``save_pretrained``: a folder with the weights, the configuration that rebuilds the model, and a card.

What a kill or a power cut leaves behind. The weights are first written under a name made of their own hash
(``model.<hash>.safetensors``). Then ``config.json``, which carries that hash, replaces the old one in one
rename. Only then do the weights take their plain name. A reader who finds weights under the very hash that
``config.json`` asks for takes those. So before that rename the old model is whole, after it the new one is,
and there is no moment in between. The next save tidies up.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

import moezoo
from moezoo.backbones.live import current_config
from moezoo.config import decode, to_dict
from moezoo.errors import ConfigError, InputError, OutputError
from moezoo.hub.card import model_card
from moezoo.hub.files import (
    STAGING,
    check_writable,
    exclusive,
    file_digest,
    free_space,
    move_into_place,
    output_errors,
    seal,
    write_text,
)
from moezoo.hub.schema import (
    CONFIG_LIMIT,
    CONFIG_NAME,
    DATA_FIELDS,
    FORMAT_VERSION,
    WEIGHTS_NAME,
    DataConfig,
)
from moezoo.hub.state import portable_state, refuse_nonfinite, unwrapped
from moezoo.hub.stored import staged_name
from moezoo.registry import model_config


def save_pretrained(
    model: nn.Module,
    dir: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
) -> Path:
    """Write ``model.safetensors``, ``config.json`` and ``README.md``, replacing a model saved there before.

    Args:
        model: A model that moezoo built. ``torch.compile`` and data-parallel wrappers are seen through.
        dir: The folder; created if need be.
        metrics: Plain JSON data shown on the card, for example ``{"top1": 0.81}``.
        label_names: One name per class; ``model.label_names`` by default.

    Returns:
        The folder.

    Raises:
        InputError: moezoo did not build the model, it is a ``features_only`` one, or its state holds more than plain
            tensors.
        ConfigError: ``metrics`` is not plain JSON, the labels do not fit ``num_classes``, or the pooling was changed.
        NonFiniteError: A tensor holds NaN or infinity; nothing is written.
        OutputError: The folder cannot be written; a model saved there before is still whole.
    """
    model = unwrapped(model)
    config = stored_config(model, metrics=metrics, label_names=label_names)
    state = portable_state(model)
    refuse_nonfinite(state, "save_pretrained")
    folder = check_writable(dir)
    with exclusive(folder), output_errors(folder):
        tidy(folder)
        staging = folder / STAGING
        staging.mkdir()
        try:
            draft = staging / WEIGHTS_NAME
            try:
                save_file(state, draft, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OutputError(f"{str(folder)!r} cannot be written: {error}{free_space(folder)}") from error
            seal(draft)
            config["weights_sha256"] = digest = file_digest(draft)
            staged = folder / staged_name(digest)
            move_into_place(draft, staged)
            write_text(folder / CONFIG_NAME, config_text(config))
            move_into_place(staged, folder / WEIGHTS_NAME)
            # A model trained from scratch owes nothing to the backbone's published weights.
            fresh = getattr(model, "weights_origin", None) == "fresh"
            cfg = None if fresh else getattr(model, "pretrained_cfg", None)
            write_text(folder / "README.md", model_card(config, cfg))
        finally:
            tidy(folder)
    return folder


def stored_config(model: nn.Module, *, metrics: Any = None, label_names: Sequence[str] | None = None) -> dict[str, Any]:
    """What ``config.json`` says about ``model``; the hash of the weights is filled in later."""
    name, config = getattr(model, "moezoo_name", None), getattr(model, "moezoo_config", None)
    if not isinstance(name, str) or config is None:
        raise InputError(
            "save_pretrained takes a model that moezoo built, so that its config can rebuild it; "
            f"{type(model).__name__} has no moezoo_config. Build it by moezoo.create_model, or use "
            "safetensors.torch.save_model for the bare weights."
        )
    # What is written has to be readable: the name leads to this very kind of configuration.
    if not isinstance(config, type(model_config(name))):
        raise ConfigError(f"moezoo_name={name!r} does not belong to a {type(config).__name__}")
    fields = to_dict(current_config(model, config))
    labels = label_names if label_names is not None else _own_labels(model, fields.get("num_classes"))
    cfg = getattr(model, "pretrained_cfg", None) or {}
    get = cfg.get if isinstance(cfg, Mapping) else lambda key: getattr(cfg, key, None)
    stated: dict[str, Any] = {key: get(key) for key in DATA_FIELDS if get(key) is not None}
    if "input_size" in stated and (size := fields.get("img_size")) is not None:
        sides = (size, size) if isinstance(size, int) else size
        stated["input_size"] = (*stated["input_size"][:1], *sides)
    data = to_dict(decode(DataConfig, stated, where="model.pretrained_cfg"))
    content = {
        "format_version": FORMAT_VERSION,
        "moezoo_version": moezoo.__version__,
        "name": name,
        "config": fields,
        "label_names": _labels(labels, fields.get("num_classes")),
        "data": {key: value for key, value in data.items() if value is not None},
        "metrics": _metrics(metrics),
        "weights_sha256": "0" * 64,
    }
    if (size := len(config_text(content).encode())) > CONFIG_LIMIT:
        raise ConfigError(
            f"config.json would have {size:,} bytes, more than the {CONFIG_LIMIT:,} that are read back; "
            "shorten label_names or metrics"
        )
    return content


def config_text(content: Mapping[str, Any]) -> str:
    """``config.json`` as it is written."""
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def tidy(folder: Path) -> None:
    """Finish or drop what a killed save left in ``folder``."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)
    wanted = ""
    # A folder with no config, or a foreign one, has nothing that waits for its weights.
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
        wanted = staged_name(str(json.loads((folder / CONFIG_NAME).read_bytes())["weights_sha256"]))
    for path in folder.glob("model.*.safetensors"):
        if path.name == wanted:
            move_into_place(path, folder / WEIGHTS_NAME)
        elif re.fullmatch(r"model\.[0-9a-f]{16}\.safetensors", path.name):
            path.unlink()


def _own_labels(model: nn.Module, num_classes: Any) -> Any:
    """The labels the model carries, unless ``reset_classifier`` has made them those of another head."""
    labels, config = getattr(model, "label_names", None), getattr(model, "moezoo_config", None)
    return labels if num_classes == getattr(config, "num_classes", num_classes) else None


def _labels(labels: Any, num_classes: Any) -> list[str] | None:
    if labels is None:
        return None
    names = [labels] if isinstance(labels, str) else list(labels)
    if isinstance(labels, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"label_names must be a sequence of strings, one per class, got {labels!r:.80}")
    if num_classes is not None and len(names) != num_classes:
        raise ConfigError(f"label_names has {len(names)} names, the model has num_classes={num_classes}")
    return names


def _metrics(metrics: Any) -> dict[str, Any] | None:
    if metrics is None:
        return None
    if not isinstance(metrics, Mapping) or not all(isinstance(key, str) for key in metrics):
        raise ConfigError(f"metrics must be a mapping of names to plain JSON values, got {metrics!r:.80}")
    for key, value in metrics.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"metrics[{key!r}]={value!r:.80} is not plain JSON: {error}") from None
    return dict(metrics)
