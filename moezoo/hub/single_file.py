"""A model in one ``.safetensors`` file: weights, and in the file's own metadata what else it takes to use them.

The folder of ``save_pretrained`` has a ``config.json`` and a ``tokenizer.json`` for that. A file that lies alone, as
``checkpoints/cifar10_model.safetensors``, has them inside; to every other reader it is a plain safetensors file.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

import moezoo
from moezoo.altered.note import compression_of
from moezoo.backbones.live import current_config
from moezoo.config import decode, to_dict
from moezoo.errors import ConfigError, InputError, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.company import labels_of, tokenizer_text
from moezoo.hub.files import check_writable, drafted, exclusive
from moezoo.hub.header import check_suffix
from moezoo.hub.injected import origin_of, refuse_upcycled
from moezoo.hub.schema import FORMAT_VERSION, typed
from moezoo.hub.state import portable_state, refuse_nonfinite, unwrapped
from moezoo.registry import model_config

ABOUT, TOKENIZER = "moezoo", "tokenizer"
"""The keys of the metadata: JSON about the model, and the tokenizer's own text."""


@dataclass(frozen=True)
class SingleFile:
    """What a file says about the model whose weights it holds."""

    path: Path
    name: str
    """The model's."""
    config: Any
    """The family's dataclass."""
    dataset: str
    """What it was trained on."""
    label_names: tuple[str, ...] | None
    tokenizer: str | None
    """As the tokenizer's ``from_json`` takes it."""


def save_single_file(model: nn.Module, path: str | os.PathLike[str], *, dataset: str) -> Path:
    """Write a model that moezoo built into one file, in place of what was there.

    Args:
        model: Its ``label_names`` and ``tokenizer`` go along where it has some.
        path: Ends in ``.safetensors``; the folder is created if need be.
        dataset: The name of the data set it was trained on.

    Raises:
        InputError: No configuration can rebuild the model.
        ConfigError: The path has another ending, the labels do not fit ``num_classes``, or the tokenizer is larger than
            ``vocab_size``.
        NonFiniteError: A tensor holds NaN or infinity; nothing is written.
        OutputError: The file cannot be written; an older one is still whole.
    """
    path = check_suffix(path)
    model = unwrapped(model)
    origin = origin_of(model)
    refuse_upcycled(model, "save_single_file")
    if compression_of(model) is not None:
        raise InputError("save_single_file cannot store a pruned or quantised model: use moezoo.save_pretrained.")
    config = current_config(model, origin.config)
    state = portable_state(model)
    refuse_nonfinite(state, "save_single_file")
    tokenizer = tokenizer_text(model, config)
    about = {
        "format_version": FORMAT_VERSION,
        "moezoo_version": moezoo.__version__,
        "name": origin.name,
        "config": to_dict(config),
        "dataset": dataset,
        "label_names": labels_of(model, getattr(config, "num_classes", None)),
    }
    metadata = {"format": "pt", ABOUT: json.dumps(about, ensure_ascii=False)}
    if tokenizer is not None:
        metadata[TOKENIZER] = tokenizer
    with exclusive(check_writable(path.parent)), drafted(path) as draft:
        save_file(state, draft, metadata=metadata)
    return path


def read_single_file(path: str | os.PathLike[str]) -> SingleFile | None:
    """What a file says about its model; ``None`` where it holds weights alone. No weight is read.

    Raises:
        ConfigError: The name does not end in ``.safetensors``, or a newer moezoo wrote the file.
        WeightsUnavailable: There is no such file.
        WeightsCorrupted: It is no sound safetensors file, or what it says is not what moezoo writes.
        UnknownModelError: Its model is not registered here.
    """
    path = check_suffix(path)
    metadata = _metadata(path)
    if ABOUT not in metadata:
        return None
    try:
        about = json.loads(metadata[ABOUT])
        version, name = typed(about, "format_version", int, str(path)), typed(about, "name", str, str(path))
        dataset, values = typed(about, "dataset", str, str(path)), typed(about, "config", dict, str(path))
        labels = about.get("label_names")
        if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
            raise ValueError(f"label_names must be a list of strings, got {labels!r:.80}")
    except (ValueError, AttributeError, RecursionError) as error:  # JSON may be nested deeper than Python can read
        raise WeightsCorrupted(f"{str(path)!r}: its metadata is not what moezoo writes: {error}") from None
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{str(path)!r}: format_version {version}, written by moezoo {about.get('moezoo_version')!s:.40}, is newer "
            f"than this moezoo {moezoo.__version__}, which reads formats up to {FORMAT_VERSION}."
        )
    config = decode(type(model_config(name)), values, where=str(path))
    return SingleFile(path, name, config, dataset, tuple(labels) if labels else None, metadata.get(TOKENIZER))


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise WeightsUnavailable(f"there is no weights file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsCorrupted(f"{str(path)!r} is not a sound safetensors file: {error}") from None
