"""``from_pretrained`` of a folder or repository that :func:`moezoo.save_pretrained` wrote."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.factory import create_model
from moezoo.transformers.config import MoeZooConfig

HUB = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
"""Arguments that say where a repository's files come from."""
_OF_NO_CONSEQUENCE = (
    "_from_auto",
    "_from_pipeline",
    "trust_remote_code",
    "adapter_kwargs",
    "use_safetensors",
    "proxies",
    "ignore_mismatched_sizes",  # moezoo fits a fresh head by itself, and says so
)


def load_stored(path: str, **kwargs: Any) -> tuple[MoeZooConfig, nn.Module]:
    """The configuration and the model, its weights checked and loaded, of the dtype and on the device asked for.

    Raises:
        ConfigError: An argument that such a folder does not take.
        WeightsError: The weights are damaged or do not fit.
    """
    config, place = kwargs.pop("config", None), {key: kwargs.pop(key, None) for key in HUB}
    dtype, device = kwargs.pop("dtype", None), _device(kwargs.pop("device_map", None))
    dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype
    for key in _OF_NO_CONSEQUENCE:
        kwargs.pop(key, None)
    if place["subfolder"]:
        raise ConfigError(f"subfolder={place['subfolder']!r} is not allowed: a model of moezoo fills its repository.")
    if not isinstance(config, MoeZooConfig):
        hub = {key: value for key, value in place.items() if value is not None}
        config, kwargs = MoeZooConfig.from_pretrained(path, return_unused_kwargs=True, **hub, **kwargs)
    if kwargs:
        raise ConfigError(f"{', '.join(kwargs)}: a folder that moezoo.save_pretrained wrote takes no such argument.")
    revision = place["revision"]
    name = f"local-dir:{path}" if os.path.isdir(path) else f"hf-hub:{path}{f'@{revision}' if revision else ''}"
    model = create_model(name, True, num_classes=config.num_labels, cache_dir=place["cache_dir"], token=place["token"])
    config.name_or_path = path
    if dtype not in (None, "auto"):
        model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    return config, model if device is None else model.to(device)


def _device(device_map: Any) -> torch.device | None:
    """The one device that a map names; transformers spreads a model over several, which moezoo leaves to training."""
    given = device_map
    if isinstance(given, dict) and set(given) == {""}:
        given = given[""]
    if given is None:
        return None
    if given == "auto":
        return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    try:
        return torch.device(given)
    except (RuntimeError, TypeError):
        raise ConfigError(f"device_map={device_map!r} is not allowed: it must be 'auto' or one device.") from None
