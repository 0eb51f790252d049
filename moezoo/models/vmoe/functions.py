"""Whole conversions, from a checkpoint of google-research/vmoe to a stored model and back. Both families, no JAX."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from moezoo.config import override, read_yaml
from moezoo.errors import ConfigError, OutputError
from moezoo.factory import create_model
from moezoo.hub.files import write_text
from moezoo.hub.jax_files import read_jax, write_jax
from moezoo.hub.jax_files.write import check_target
from moezoo.hub.save import save_pretrained
from moezoo.models import soft_moe, vmoe
from moezoo.models.moe_vit.config import MoEViTConfig
from moezoo.models.moe_vit.jax.from_config import family_of
from moezoo.models.soft_moe.config import SoftMoEConfig
from moezoo.names import is_stored_name
from moezoo.registry import is_model, model_config

__all__ = ["Converted", "convert_checkpoint", "convert_to_jax"]
INSIDE = ("config", "model", "image")
"""Where files keep a model's configuration: those of a fixture, of a training run, of two towers."""


@dataclass(frozen=True)
class Converted:
    """What a conversion wrote."""

    folder: Path
    family: str
    parameters: int
    left_out: tuple[str, ...]
    """Names in the checkpoint that are no parameters."""


def convert_checkpoint(
    checkpoint: str | os.PathLike[str],
    config: str | os.PathLike[str] | Mapping[str, Any],
    out: str | os.PathLike[str],
    *,
    key: str | None = None,
    img_size: int | tuple[int, int] | None = None,
    **overrides: Any,
) -> Converted:
    """A JAX checkpoint of V-MoE or Soft MoE as a folder that ``moezoo.create_model("local-dir:…")`` loads.

    Args:
        checkpoint: What :func:`moezoo.hub.jax_files.read_jax` reads.
        config: The reference's configuration of the model: a mapping, or a JSON or YAML file with it, perhaps under
            ``model`` or ``config``. Or a registered name (``vmoe/b16``); classes and channels are then the arrays'.
        out: The folder.
        key: Where in the checkpoint the parameters are, where that is not one of the usual places.
        img_size: As of ``from_jax``.
        **overrides: Fields of the family's configuration.

    Raises:
        ConfigError: The configuration cannot be read, or has no counterpart here.
        WeightsError: The checkpoint cannot be had, is damaged, or does not fit the configuration; every name is told.
        MissingPackageError: msgpack is not installed, and the checkpoint needs it.
        OutputError: The folder cannot be written.
    """
    read = read_jax(checkpoint, key=key)
    said = config if isinstance(config, Mapping) else _read_config(config, read.params)
    soft = isinstance(said, SoftMoEConfig) if isinstance(said, MoEViTConfig) else family_of(said) == "soft_moe"
    family: Any = soft_moe if soft else vmoe
    model = family.from_jax(read.params, said, img_size=img_size, **overrides)
    folder = save_pretrained(model, out)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Converted(folder, "soft_moe" if soft else "vmoe", parameters, read.left_out)


def convert_to_jax(
    source: str | os.PathLike[str], out: str | os.PathLike[str], *, overwrite: bool = False
) -> tuple[Path, Path]:
    """A stored model of ours as the reference's parameters, and its configuration as JSON beside them.

    Args:
        source: A folder of ``save_pretrained``, or a stored name such as ``hf-hub:user/repo``.
        out: The new file, ``.npz`` (of ``/``-joined names) or ``.msgpack`` (flax's).
        overwrite: Replace it, and the JSON, where they exist.

    Returns:
        Both files.

    Raises:
        WeightsError: The model cannot be had, or was changed since it was built.
        InputError, ConfigError: It is not of these families, or computes what the reference cannot say.
        OutputError: A file exists, or cannot be written.
    """
    target = check_target(out, overwrite)
    told = target.with_suffix(".json")
    if told.exists() and not overwrite:
        raise OutputError(f"{str(told)!r} exists: overwrite=True (--overwrite) replaces it, another name keeps both")
    name = str(source) if is_stored_name(str(source)) else f"local-dir:{source}"
    params, config = vmoe.to_jax(create_model(name, pretrained=True))
    write_jax(params, target, overwrite=overwrite)
    write_text(told, json.dumps(config, indent=2) + "\n")
    return target, told


def _read_config(config: str | os.PathLike[str], params: Mapping[str, NDArray[Any]]) -> Any:
    text = os.fspath(config)
    if not Path(text).is_file() and is_model(text):
        return _of_preset(text, params)
    if Path(text).suffix not in (".json", ".yaml", ".yml"):
        raise ConfigError(f"config={text!r} is neither a .json or .yaml file nor the name of a model")
    found: Any = read_yaml(text)  # JSON is YAML
    for inside in INSIDE:
        if "encoder" not in found and isinstance(found.get(inside), Mapping):
            found = found[inside]
    return found


def _of_preset(name: str, params: Mapping[str, NDArray[Any]]) -> MoEViTConfig:
    config = model_config(name)
    if not isinstance(config, MoEViTConfig):
        raise ConfigError(f"config={name!r} is not allowed: it is no model of vmoe or soft_moe")
    head = any(part.startswith("head/") for part in params)
    bias = params.get("head/bias")
    seen: dict[str, Any] = {"num_classes": 0} if not head else {} if bias is None else {"num_classes": bias.size}
    if (kernel := params.get("embedding/kernel")) is not None and kernel.ndim == 4:
        seen["in_channels"] = kernel.shape[2]
    return override(config, seen)
