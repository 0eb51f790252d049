"""One forward of a model on fake tensors: who was called, in which order, with what.

The model itself is never run: a structural copy is, whose parameters are fake tensors without memory.
"""

from __future__ import annotations

import copy
import itertools
import logging
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves

from moezoo.backbones.caches import without_leftovers
from moezoo.backbones.hf import config as hf_config
from moezoo.backbones.hf.encoder import is_transformers
from moezoo.errors import InjectionError

BATCH = 3
"""Samples in the traced batch; not 1 or 2, so that a folded batch is told from a true one."""


@dataclass
class Call:
    """One call of a module."""

    name: str
    order: int
    """Position among all finished calls."""
    inputs: list[Tensor]
    output: Any


@dataclass
class Trace:
    """What happened in the forward of ``model`` (the fake copy)."""

    model: nn.Module
    input_size: tuple[int, int, int]
    calls: dict[str, list[Call]] = field(default_factory=dict)
    output: Any = None

    def called_once(self, name: str) -> bool:
        return len(self.calls.get(name, ())) == 1

    def outputs(self, name: str) -> list[Tensor]:
        """The tensors that the last call of ``name`` returned; empty when it was not called."""
        calls = self.calls.get(name)
        return [t for t in tree_leaves(calls[-1].output) if isinstance(t, Tensor)] if calls else []


def fake_copy(model: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """``model`` with fake parameters and buffers; allocates no tensor memory and shares no state."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    memo: dict[int, Any] = {id(tensor): mode.from_tensor(tensor.detach()) for tensor in tensors}
    return copy.deepcopy(model, memo).eval()


def run_fake(model: nn.Module, input_size: tuple[int, int, int], mode: FakeTensorMode) -> Any:
    """The output of a fake copy for a fake batch of images (B, C, H, W)."""
    like = next(itertools.chain(model.parameters(), model.buffers()), torch.zeros(()))
    dtype = like.dtype if like.is_floating_point() else torch.float32
    with without_leftovers(model), mode:
        images = torch.zeros(BATCH, *input_size, device=like.device, dtype=dtype)
        keyword = getattr(model, "main_input_name", None)
        return model(**{keyword: images}) if keyword else model(images)


def trace(model: nn.Module, input_size: tuple[int, int, int]) -> Trace:
    """Run a fake copy of ``model`` once and record every module call.

    Args:
        model: Any vision model; it is not changed.
        input_size: (C, H, W) of one image.

    Raises:
        InjectionError: The model cannot be run on fake images of this size.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    try:
        fake = fake_copy(model, mode)
    except Exception as error:  # deepcopy runs whatever the model's attributes do
        raise InjectionError(
            f"the model could not be copied for tracing: {type(error).__name__}: {error!s:.200}. Remove what it holds "
            "that cannot be copied (a result of an earlier forward, an open file, a lock)."
        ) from error
    result = Trace(fake, input_size)
    order = itertools.count()

    def record(name: str):
        def hook(_module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
            result.calls.setdefault(name, []).append(Call(name, next(order), inputs, output))

        return hook

    for name, module in fake.named_modules():
        module.register_forward_hook(record(name), with_kwargs=True)
    with torch.no_grad():
        result.output = attempt(lambda: run_fake(fake, input_size, mode), input_size)
    return result


def attempt(run: Any, input_size: tuple[int, int, int]) -> Any:
    """``run()``, with whatever the model raises turned into an :class:`InjectionError`."""
    try:
        return run()
    except InjectionError:
        raise
    except Exception as error:
        raise InjectionError(
            f"the model could not be traced on images of (channels, height, width) = {input_size}: "
            f"{type(error).__name__}: {error}. Pass input_size=(C, H, W) if it takes another size."
        ) from error


def model_input_size(model: nn.Module, given: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """(C, H, W) to trace with: ``given``, or what timm's or transformers' configuration of the model says.

    Raises:
        InjectionError: Nothing says it.
    """
    if given is not None:
        if len(tuple(given)) != 3 or any(isinstance(v, bool) or not isinstance(v, int) or v < 1 for v in given):
            raise InjectionError(f"input_size={given!r} is not allowed: it must be (channels, height, width).")
        return given
    cfg = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(cfg, dict) and cfg.get("input_size"):
        channels, height, width = cfg["input_size"]
        sides = getattr(getattr(model, "patch_embed", None), "img_size", None)
        if sides is not None and len(sides) == 2:
            height, width = sides
        return _in_chans(model, channels, (int(height), int(width))), int(height), int(width)
    config = getattr(model, "config", None)
    if is_transformers(model) or hasattr(config, "image_size"):
        return (hf_config.channels(config), *hf_config.image_size(config))
    raise InjectionError("the model does not say which images it takes: pass input_size=(channels, height, width).")


def _in_chans(model: nn.Module, stated: int, sides: tuple[int, int]) -> int:
    """Channels of the first convolution, which ``in_chans=`` may have changed, if the model takes images of as many.

    It does not where its stem folds space into channels first (TResNet, the cosine transform of CSATv2).
    """
    first = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    if first is None or first.groups != 1 or first.in_channels == stated:
        return stated
    return first.in_channels if _takes(model, (first.in_channels, *sides)) else stated


def _takes(model: nn.Module, input_size: tuple[int, int, int]) -> bool:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    log = logging.getLogger("torch._subclasses.fake_tensor")  # says at length what fails here on purpose
    silent, log.disabled = log.disabled, True
    try:
        with torch.no_grad():
            run_fake(fake_copy(model, mode), input_size, mode)
    except Exception:  # whatever the model raises
        return False
    finally:
        log.disabled = silent
    return True
