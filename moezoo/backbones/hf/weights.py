"""Pretrained weights of a transformers backbone, adapted to classes, channels and image size."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models import adapt_input_conv
from torch import Tensor, nn

from moezoo.backbones.hf.config import known_args, published_classes
from moezoo.backbones.hf.create import hf_config
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.hf.model import TransformersModel
from moezoo.backbones.inject import adapters_of
from moezoo.errors import WeightsMismatch

log = logging.getLogger(__name__)
HEAD = "classifier."


def load_hf_weights(model: nn.Module, config: Any, folder: Path) -> None:
    """Copy the weights in ``folder`` into an injected model; its adapters, and a new head, keep their own.

    transformers reads them (safetensors only) into the published configuration, so that nothing but a classifier that
    was never published can be missing.

    Args:
        model: Built from ``config``.
        config: A family's configuration with an ``hf:`` name.
        folder: Holds ``model.safetensors``, or an index and the files it names.

    Raises:
        WeightsMismatch: A weight of the backbone is missing or has a shape that cannot be adapted.
    """
    inner: nn.Module = model.model if isinstance(model, TransformersModel) else model
    classes = published_classes(known_args(config))
    state = _published_state(inner, config, folder, headless=not classes)
    wanted = inner.state_dict()
    if getattr(model, "num_classes", classes) != classes or not classes:
        state = {key: value for key, value in state.items() if not key.startswith(HEAD)}
        if any(key.startswith(HEAD) for key in model.state_dict()):
            log.info("%s: the classifier of %s classes is fresh", config.model_name, model.num_classes)
    state = {key: _fitted(key, value, wanted[key]) if key in wanted else value for key, value in state.items()}
    wrong = [k for k, v in state.items() if k in wanted and v.shape != wanted[k].shape]
    own = (*(f"{path}." for path in adapters_of(inner)), HEAD)
    missing = [key for key in wanted if key not in state and not key.startswith(own)]
    unexpected = [key for key in state if key not in wanted]
    if wrong or missing or unexpected:
        raise WeightsMismatch(
            f"the weights of {config.model_name!r} do not fit: of another shape {wrong[:5]}, missing {missing[:5]}, "
            f"unexpected {unexpected[:5]}"
        )
    inner.load_state_dict(state, strict=False)


def _published_state(inner: nn.Module, config: Any, folder: Path, *, headless: bool) -> dict[str, Tensor]:
    from transformers import AutoModel, AutoModelForImageClassification

    published = hf_config(dataclasses.replace(config, in_chans=None, img_size=None, drop_path_rate=None))
    if type(published) in AutoModelForImageClassification._model_mapping:
        kind: Any = AutoModelForImageClassification
    else:
        kind = type(inner) if published.model_type == "sam" else AutoModel
    with _quiet():
        whole, report = kind.from_pretrained(
            str(folder),
            config=published,
            output_loading_info=True,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
        )
    missing = [key for key in report["missing_keys"] if not (headless and key.startswith(HEAD))]
    if missing or report["mismatched_keys"]:
        raise WeightsMismatch(
            f"the weights of {config.model_name!r} are not whole: missing {sorted(missing)[:5]}, of another shape "
            f"{sorted(map(str, report['mismatched_keys']))[:5]}"
        )
    part = whole if type(whole) is type(inner) else vision_part(whole)[1]
    return part.state_dict()


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers reports at length what is missing or left over; here that is checked, and told in one line."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _fitted(key: str, value: Tensor, like: Tensor) -> Tensor:
    """A convolution of the image made for other channels, or position embeddings made for another size."""
    if value.shape == like.shape:
        return value
    if value.dim() == 4 and value.shape[0] == like.shape[0] and value.shape[2:] == like.shape[2:]:
        return adapt_input_conv(like.shape[1], value)
    if "position_embedding" in key and value.dim() == 3 and value.shape[2] == like.shape[2]:
        prefix = _prefix_tokens(value.shape[1], like.shape[1])
        if prefix is not None:
            side = round((like.shape[1] - prefix) ** 0.5)
            return resample_abs_pos_embed(value, [side, side], num_prefix_tokens=prefix)
    return value


def _prefix_tokens(old: int, new: int) -> int | None:
    """How many embeddings stand before two square grids of ``old`` and ``new`` positions in all."""
    return next((p for p in range(3) if _is_square(old - p) and _is_square(new - p)), None)


def _is_square(count: int) -> bool:
    return count > 0 and round(count**0.5) ** 2 == count
