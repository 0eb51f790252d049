"""Empty batches for backbones that cannot take one.

Some timm models reshape with ``-1``, which no empty tensor survives. For them blank images stand in, and their rows are
cut off again. Whether a backbone needs this is found out on fake tensors when the first empty batch comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from moezoo.backbones.caches import without_leftovers
from moezoo.backbones.inputs import given_images, image_keyword
from moezoo.backbones.trace import fake_copy
from moezoo.moe.aux import silence
from moezoo.moe.routers import AdaptiveRouter

_FLAG = "moezoo_takes_empty"
_BUFFERS = "moezoo_buffers"
"""Attribute of the blank images: the model's buffers as they were. It marks a forward as stood in for, so that one that
raises leaves nothing behind on the model."""
_BLANK = 2
"""Images that stand in: batch normalisation in training refuses a single one."""


def allow_empty_batches(model: nn.Module) -> nn.Module:
    """Let ``model`` answer (0, C, H, W) images with zero rows; returns it."""
    model.register_forward_pre_hook(_stand_in, with_kwargs=True)
    model.register_forward_hook(_cut_off, with_kwargs=True)
    return model


def _stand_in(model: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
    images = given_images(args, kwargs)
    if not isinstance(images, Tensor) or images.shape[0] or _takes_empty(model, images):
        return None
    blank = images.new_zeros(_BLANK, *images.shape[1:])
    # Neither running statistics nor what routers count may see images that nobody gave.
    setattr(blank, _BUFFERS, [(b, b.clone()) for b in _counted(model)] if model.training else [])
    return ((blank, *args[1:]), kwargs) if args else ((), {**kwargs, image_keyword(kwargs): blank})


def _cut_off(model: nn.Module, args: tuple, kwargs: dict, output: Any) -> Any:
    buffers = getattr(given_images(args, kwargs), _BUFFERS, None)
    if buffers is None:
        return None
    for buffer, before in buffers:
        buffer.data.copy_(before)  # .data: backward may hold the buffer, and needs none of the values put back
    silence(model)
    return tree_map_only(Tensor, lambda t: t[:0], output)


def _counted(model: nn.Module) -> Iterator[Tensor]:
    yield from model.buffers()
    yield from (module.tally for module in model.modules() if isinstance(module, AdaptiveRouter))


def _takes_empty(model: nn.Module, images: Tensor) -> bool:
    known = getattr(model, _FLAG, None)
    if known is None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            fake = fake_copy(model, mode)
            fake._forward_pre_hooks.clear()
            fake._forward_hooks.clear()
            with without_leftovers(fake), mode, torch.no_grad():
                fake(torch.zeros(images.shape, dtype=images.dtype, device=images.device))
            known = True
        except Exception:  # whatever it is: blank images run, or the model raises its own error on them
            known = False
        setattr(model, _FLAG, known)
    return known
