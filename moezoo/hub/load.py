"""``load_weights``: everything is checked before the module is touched, and nothing is ever unpickled."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from moezoo.backbones.inject import adapters_of
from moezoo.errors import ConfigError, NonFiniteError, WeightsCorrupted
from moezoo.hub.files import file_digest
from moezoo.hub.header import check_header, check_suffix, compare, header_shapes, model_shapes
from moezoo.hub.state import refuse_nonfinite, shown
from moezoo.hub.stored import StoredModel, read_stored

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
    tensors = _read(model, path, sha256, allow_nonfinite, keep)
    if keep:
        logger.info("%s: the model keeps its own %s", path, shown(sorted(keep)))
    model.load_state_dict(tensors, strict=not keep)


def load_checkpoint(model: nn.Module, path: str | os.PathLike[str]) -> str:
    """Load a file strictly that holds the whole model, or its plain backbone: every weight but the adapters'.

    Returns:
        What to call the weights' origin.

    Raises:
        ConfigError: The file holds the backbone alone, and the adapters were trained on another.
        WeightsError: As of :func:`load_weights`.
    """
    added = tuple(f"{place}." for place in adapters_of(model))
    keep = {name for name in model_shapes(model) if name.startswith(added)}
    if not keep or any(name.startswith(added) for name in header_shapes(path)):
        load_weights(model, path)
        return f"checkpoint:{path}"
    if not str(getattr(model, "weights_origin", "fresh")).startswith(("fresh", "backbone:")):
        raise ConfigError(
            f"checkpoint_path={str(path)!r} holds a plain backbone, but the adapters were trained on another one "
            f"({model.weights_origin}): leave pretrained out for a fresh MoE."
        )
    model.load_state_dict(_read(model, path, None, False, keep), strict=False)
    logger.info("%s: weights of the plain backbone under a fresh MoE, the identity at step 0", path)
    return f"backbone-checkpoint:{path}"


def _read(
    model: nn.Module, path: str | os.PathLike[str], sha256: str | None, allow_nonfinite: bool, keep: Collection[str]
) -> dict[str, Tensor]:
    """A file's tensors, checked in every way against a model; those named in ``keep`` left out."""
    path = check_suffix(path)
    header = header_shapes(path)
    if sha256 is not None and (got := file_digest(path)) != sha256:
        raise WeightsCorrupted(
            f"{str(path)!r} is not the file its config.json was saved with: expected sha256 {sha256}, got {got}"
        )
    own = model_shapes(model)
    compare(own, header, path, keep=keep)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise WeightsCorrupted(f"{str(path)!r} cannot be read: {error}") from None
    tensors = {name: tensor for name, tensor in tensors.items() if name not in keep}
    if not allow_nonfinite:
        try:
            refuse_nonfinite(tensors, repr(str(path)))
        except NonFiniteError as error:
            raise NonFiniteError(f"{error}. Pass allow_nonfinite=True to load it all the same.") from None
    rounded = [name for name, tensor in tensors.items() if tensor.dtype != own[name][1]]
    if rounded:
        logger.info("%s: %d tensors are converted to the model's dtype: %s", path, len(rounded), shown(rounded))
    return tensors
