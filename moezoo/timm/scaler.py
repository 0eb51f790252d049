"""timm's ``NativeScaler`` multiplies the loss for float16; the attached gradients have to follow.

timm's training script makes the scaler after the model and hands it to nobody, so it is noted when it is made.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any

from timm.utils import NativeScaler
from torch import nn

from moezoo.moe.aux_calls import aux_calls
from moezoo.moe.aux_mode import set_aux_scale

_models: weakref.WeakKeyDictionary[nn.Module, float] = weakref.WeakKeyDictionary()
"""The models made through timm, each with its own factor."""
_latest: weakref.ref[Any] | None = None
_make = NativeScaler.__init__


def follow_scaler(model: nn.Module, factor: float) -> None:
    """Scale ``model``'s attached gradients by ``factor`` and by timm's latest scaler, as long as that one lives."""
    _models[model] = factor
    _set(model, factor)


def _set(model: nn.Module, factor: float) -> None:
    if not all(calls.attached for calls in aux_calls(model)):
        return  # its owner has changed to collected losses, which see the scaler by themselves
    scaler = _latest
    if scaler is None or scaler() is None:
        set_aux_scale(model, factor)
    else:
        set_aux_scale(model, functools.partial(_scale, scaler, factor))


def _scale(scaler: weakref.ref[Any], factor: float) -> float:
    alive = scaler()
    return factor if alive is None else factor * alive._scaler.get_scale()


@functools.wraps(_make)
def _noted(self: Any, *args: Any, **kwargs: Any) -> None:
    global _latest
    _make(self, *args, **kwargs)
    _latest = weakref.ref(self)
    for model, factor in _models.items():
        _set(model, factor)


NativeScaler.__init__ = _noted  # type: ignore[method-assign]
