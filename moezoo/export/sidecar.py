"""The JSON beside an exported file: what a program needs that feeds it, and where it comes from."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import moezoo
from moezoo.backbones.live import current_config
from moezoo.config import to_dict
from moezoo.errors import ConfigError, InputError
from moezoo.export.parity import Parity
from moezoo.export.to_onnx import opset_of
from moezoo.hub.files import file_digest

DATA = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
"""What an image goes through before it is an input."""


def describe(
    model: nn.Module, files: Sequence[Path], format: str, images: Tensor, dynamic_batch: bool, parity: Parity | None
) -> dict[str, Any]:
    """Plain data about an exported model.

    Args:
        model: What was exported; what it does not say of itself is ``null``.
        files: What was written, the model's own file last.
        format: Of the file.
        images: What it was traced with.
        dynamic_batch: Whether it takes other numbers of images.
        parity: What the check found.
    """
    labels = getattr(model, "label_names", None)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    get = cfg.get if isinstance(cfg, Mapping) else lambda key: getattr(cfg, key, None)
    versions = {"moezoo": moezoo.__version__, "torch": torch.__version__}
    if format == "onnx":
        versions |= {name: importlib.metadata.version(name) for name in ("onnx", "onnxscript")}
        versions["opset"] = str(opset_of(files[-1]))
    return {
        "name": getattr(model, "moezoo_name", None),
        "weights_origin": getattr(model, "weights_origin", None),
        "format": format,
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)} for path in files},
        "input": {"shape": ["batch" if dynamic_batch else len(images), *images.shape[1:]], "dtype": "float32"},
        "data": {key: _plain(get(key)) for key in DATA},
        "label_names": list(labels) if labels else None,
        "config": _config(model),
        "versions": versions,
        "parity": None if parity is None else dataclasses.asdict(parity),
    }


def sidecar_text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _config(model: nn.Module) -> dict[str, Any] | None:
    config = getattr(model, "moezoo_config", None)
    with contextlib.suppress(ConfigError, InputError):  # changed since it was built, so that no configuration says it
        return None if config is None else to_dict(current_config(model, config))
    return None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value
