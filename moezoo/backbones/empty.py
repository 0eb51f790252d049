"""Empty batches for backbones that cannot take one.

Some timm models reshape with ``-1``, which no empty tensor survives. For them one blank image stands in, and its row is cut off
again. Whether a backbone needs this is found out on fake tensors when the first empty batch comes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from moezoo.backbones.trace import fake_copy
from moezoo.moe.aux import silence

_FLAG = "moezoo_takes_empty"


def allow_empty_batches(model: nn.Module) -> nn.Module:
    """Let ``model`` answer (0, C, H, W) images with zero rows; returns it."""
    model.register_forward_pre_hook(_stand_in)
    model.register_forward_hook(_cut_off)
    return model


def _stand_in(model: nn.Module, args: tuple) -> tuple | None:
    if not args or not isinstance(args[0], Tensor) or args[0].shape[0] or _takes_empty(model, args[0]):
        return None
    model._moezoo_stand_in = True  # type: ignore[assignment]
    return (args[0].new_zeros(1, *args[0].shape[1:]), *args[1:])


def _cut_off(model: nn.Module, args: tuple, output: Any) -> Any:
    if not getattr(model, "_moezoo_stand_in", False):
        return None
    model._moezoo_stand_in = False  # type: ignore[assignment]
    silence(model)
    return tree_map_only(Tensor, lambda t: t[:0], output)


def _takes_empty(model: nn.Module, images: Tensor) -> bool:
    known = getattr(model, _FLAG, None)
    if known is None:
        mode = FakeTensorMode(allow_non_fake_inputs=True)
        try:
            fake = fake_copy(model, mode)
            fake._forward_pre_hooks.clear()
            fake._forward_hooks.clear()
            with mode, torch.no_grad():
                fake(torch.zeros(images.shape, dtype=images.dtype, device=images.device))
            known = True
        except (RuntimeError, ZeroDivisionError, ValueError, IndexError):
            known = False
        setattr(model, _FLAG, known)
    return known
