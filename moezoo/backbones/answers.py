"""What a model answers, where its reader knows tensors alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

ANSWERS = ("logits", "embeddings", "features")


def plain_answer(output: Any) -> Any:
    """``output``, or of a mapping with one of :data:`ANSWERS` the first of these that is there."""
    if isinstance(output, Mapping):
        return next((output[key] for key in ANSWERS if key in output), output)
    return output


def ask_plainly(model: nn.Module, images: Any) -> Any:
    """What ``model`` answers to images as a tensor: scores where it has some.

    A model that only answers with scores when asked for them says how by ``mapping_call``, keyword arguments of its
    forward.
    """
    return plain_answer(model(images, **getattr(model, "mapping_call", {})))


def answer_plainly(model: nn.Module) -> nn.Module:
    """Let ``model`` answer as in :func:`ask_plainly` from now on; returns it."""
    if hasattr(model, "mapping_call"):
        model.register_forward_pre_hook(_as_mapping, with_kwargs=True)
    model.register_forward_hook(_plainly)
    return model


def _as_mapping(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    return args, {**kwargs, **model.mapping_call}  # type: ignore[dict-item]


def _plainly(model: nn.Module, args: tuple, output: Any) -> Any:
    return plain_answer(output)
