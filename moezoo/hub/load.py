"""``load_weights``: everything is checked before the module is touched, and nothing is ever unpickled."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moezoo.backbones.adapt import keys_of
from moezoo.backbones.in_place import plain_shapes
from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError, NonFiniteError, WeightsCorrupted
from moezoo.hub.files import file_digest
from moezoo.hub.header import Shapes, check_header, compare, header_shapes, model_shapes, own_hint
from moezoo.hub.state import refuse_nonfinite, shown
from moezoo.hub.stored import read_stored
from moezoo.hub.stored_model import StoredModel

__all__ = [
    "StoredModel",
    "check_header",
    "compare",
    "header_shapes",
    "load_checkpoint",
    "load_weights",
    "model_shapes",
    "read_stored",
]

Files: TypeAlias = Mapping[Path, "str | None"]
"""Safetensors files, each with the sha256 it must have."""

logger = logging.getLogger(__name__)


def load_weights(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    sha256: str | None = None,
    allow_nonfinite: bool = False,
    keep: Collection[str] = (),
) -> None:
    """Load a safetensors file into ``model``, or raise and leave the model as it was.

    float16, bfloat16, float32 and float64 load into each other with a log line; the model keeps its dtypes.

    Args:
        path: A ``.safetensors`` file.
        sha256: The hash the file must have, in hexadecimal.
        allow_nonfinite: Load NaN and infinity too.
        keep: State-dict names that keep the model's own values, for example a head with another number of
            classes.

    Raises:
        ConfigError: The file is of another kind (``.pth``, ``.bin`` …).
        WeightsUnavailable: There is no such file.
        WeightsCorrupted: Its hash is wrong, or it is cut or not a safetensors file.
        WeightsMismatch: Names, shapes or dtypes differ; all of them are listed.
        NonFiniteError: It holds NaN or infinity; the tensors are named.
    """
    load_files(model, {Path(path): sha256}, allow_nonfinite=allow_nonfinite, keep=keep)
    if keep:
        logger.info("%s: the model keeps its own %s", path, shown(sorted(keep)))


def load_files(
    model: nn.Module, files: Files, *, allow_nonfinite: bool = False, keep: Collection[str] = (), assign: bool = False
) -> None:
    """:func:`load_weights` from one file or from the shards of one model.

    Args:
        files: Where they are, each with the hash it must have or ``None``.
        assign: Put the file's tensors in the place of the model's, which may be on the meta device.
    """
    tensors = _read(model, files, allow_nonfinite, keep)
    if assign:
        # Copies: what safetensors hands out is the mapped file itself, which somebody may write to.
        own = model.state_dict()
        device = torch.get_default_device()
        tensors = {name: t.to(device, own[name].dtype, copy=True) for name, t in tensors.items()}
    model.load_state_dict(tensors, strict=not keep, assign=assign)


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load a file strictly that holds the whole model, or its plain backbone: every weight but the adapters'.

    Where the model was upcycled, experts are then made from the backbone's MLPs.

    Returns:
        What to call the weights' origin.

    Raises:
        ConfigError: The file holds the backbone alone, and the adapters were trained on another.
        WeightsError: As of :func:`load_weights`.
    """
    plain = plain_shapes(model)
    if plain is not None and header_shapes(path).keys().isdisjoint(model.state_dict().keys() - plain.keys()):
        model.load_state_dict(_read(model, {Path(path): None}, False, (), own=plain))
        logger.info("%s: weights of the plain backbone, whose MLPs are in the experts now", path)
        return f"backbone-checkpoint:{path}"
    keep = keys_of(model, adapters_of(model).values())
    if not keep or not keep.isdisjoint(header_shapes(path)):
        load_weights(model, path)
        return f"checkpoint:{path}"
    if not str(getattr(model, "weights_origin", "fresh")).startswith(("fresh", "backbone:")):
        raise ConfigError(
            f"checkpoint_path={str(path)!r} holds a plain backbone, but the adapters were trained on another one "
            f"({model.weights_origin}): leave pretrained out for a fresh MoE."
        )
    model.load_state_dict(_read(model, {Path(path): None}, False, keep), strict=False)
    logger.info("%s: weights of the plain backbone under a fresh MoE, the identity at step 0", path)
    return f"backbone-checkpoint:{path}"


def _read(
    model: nn.Module, files: Files, allow_nonfinite: bool, keep: Collection[str], own: Shapes | None = None
) -> dict[str, Tensor]:
    """The tensors of files, checked in every way against a model, or against ``own``; without those in ``keep``."""
    header = files_header(files)
    for path, sha256 in files.items():
        if sha256 is not None and (got := file_digest(path)) != sha256:
            raise WeightsCorrupted(
                f"{str(path)!r} is not the file its config.json was saved with: expected sha256 {sha256}, got {got}"
            )
    own, source = own or model_shapes(model), ", ".join(str(path) for path in files)
    compare(own, header, source, keep=keep, hint=own_hint(model))
    tensors: dict[str, Tensor] = {}
    for path in files:
        try:
            tensors.update(load_file(path))
        except (SafetensorError, OSError) as error:
            raise WeightsCorrupted(f"{str(path)!r} cannot be read: {error}") from None
    tensors = {name: tensor for name, tensor in tensors.items() if name not in keep}
    if not allow_nonfinite:
        try:
            refuse_nonfinite(tensors, repr(source))
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}. Pass allow_nonfinite=True to load it all the same.") from None
    rounded = [name for name, tensor in tensors.items() if tensor.dtype != own[name][1]]
    if rounded:
        logger.info("%s: %d tensors are converted to the model's dtype: %s", source, len(rounded), shown(rounded))
    return tensors


def files_header(files: Iterable[Path]) -> dict[str, Any]:
    """:func:`header_shapes` of the shards of one model together.

    Raises:
        WeightsCorrupted: A tensor lies in two of them.
    """
    header: dict[str, Any] = {}
    for path in files:
        part = header_shapes(path)
        if twice := sorted(header.keys() & part.keys()):
            raise WeightsCorrupted(f"{str(path)!r} holds what another shard holds too: {shown(twice)}")
        header.update(part)
    return header
