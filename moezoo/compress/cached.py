"""Answers that are computed once: a module in evaluation mode, with the outputs of its last inputs kept."""

from __future__ import annotations

import copy
import math
import threading
from collections import OrderedDict
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules import module as every
from torch.utils._pytree import tree_leaves, tree_map

from moezoo.compress.fingerprint import ModuleState, content_key, countable
from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int


class CacheInfo(NamedTuple):
    """What a cache did and holds."""

    hits: int
    misses: int
    passed: int
    """Calls that went through without being looked up: in training, with gradients wanted, with inputs that are not
    plain data, while hooks are listening, or while the call is traced or transformed by ``torch.func``."""
    entries: int
    bytes: int
    """Of the outputs held."""


class CachedMoE(nn.Module):
    """``module``, which in evaluation mode does not compute again what it was asked before.

    An input is known again by its content (a hash of values, dtypes, shapes, devices, and autocast), not by its
    identity. Outputs are kept without gradients and handed out as copies. The ones least recently used go first. All
    are dropped when a parameter, another tensor or a plain setting of the module has changed. In training, with an
    input that wants a gradient, and while something listens by hooks (:func:`moezoo.record_routing`), it is as if there
    was no cache. Several threads may call it.

    Args:
        module: A model or a layer; its outputs may be tensors, mappings, tuples, and nested.
        max_entries: Outputs kept.
        max_bytes: Of their tensors together; ``None`` sets no limit. An output larger than all of it is not kept.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(self, module: nn.Module, max_entries: int = 64, max_bytes: int | None = None):
        super().__init__()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"module={module!r:.80} is not allowed: it must be a torch.nn.Module.")
        self.module = module
        self.max_entries = check_int("max_entries", max_entries, low=1)
        self.max_bytes = None if max_bytes is None else check_int("max_bytes", max_bytes, low=1)
        self.training = module.training  # train() would reach into parts that are in another mode
        self._own_hooks = _hooks(module)
        self._empty()

    def _empty(self) -> None:
        self._lock = threading.RLock()
        self._kept: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()
        self._state: ModuleState | None = None
        self._bytes = self._hits = self._misses = self._passed = 0

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's output; in evaluation mode without a gradient."""
        key = content_key(args, kwargs) if self._may_look() else None
        if key is None:
            with self._lock:
                self._passed += 1
            return self.module(*args, **kwargs)
        with self._lock:
            state = self._current()
            if (found := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                self._hits += 1
            else:
                self._misses += 1
        if found is not None:
            return _copied(found[0])
        with torch.no_grad():
            output = self.module(*args, **kwargs)
        with torch.inference_mode(False):
            self._keep(key, _copied(output), state)
        return output

    def clear(self) -> None:
        """Forget all outputs, as after writes that torch does not count; the counts stay."""
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def cache_info(self) -> CacheInfo:
        """Hits, misses and what is held now."""
        with self._lock:
            return CacheInfo(self._hits, self._misses, self._passed, len(self._kept), self._bytes)

    def _may_look(self) -> bool:
        return (
            not any(part.training for part in self.modules())
            and _hooks(self.module) == self._own_hooks
            and countable(self.module)
            and not torch.compiler.is_compiling()
            and not torch.jit.is_tracing()
            and not torch._C._are_functorch_transforms_active()
        )

    def _current(self) -> ModuleState:
        """The state of the module; if it is not that of the outputs held, they go."""
        if self._state is None or not self._state.is_of(self.module):
            self._state = ModuleState(self.module)
            self.clear()
        return self._state

    def _keep(self, key: bytes, output: Any, state: ModuleState) -> None:
        size = sum(leaf.nbytes for leaf in tree_leaves(output) if isinstance(leaf, Tensor))
        limit = math.inf if self.max_bytes is None else self.max_bytes
        with self._lock:
            # Another thread may have changed a weight meanwhile, or kept the same.
            if self._current() is not state or key in self._kept or size > limit:
                return
            self._kept[key] = (output, size)
            self._bytes += size
            while len(self._kept) > self.max_entries or self._bytes > limit:
                _, (_, gone) = self._kept.popitem(last=False)
                self._bytes -= gone

    # Copies and pickles start empty; a lock is of one process.

    def __getstate__(self) -> dict[str, Any]:
        own = ("_lock", "_kept", "_state", "_bytes", "_hits", "_misses", "_passed")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._empty()

    def extra_repr(self) -> str:
        return f"max_entries={self.max_entries}, max_bytes={self.max_bytes}"


def _copied(output: Any) -> Any:
    def one(leaf: Any) -> Any:
        return leaf.detach().clone() if isinstance(leaf, Tensor) else copy.deepcopy(leaf)

    return tree_map(one, output)


def _hooks(module: nn.Module) -> list[tuple[tuple[int, ...], ...]]:
    """The numbers of all hooks that a call would run."""
    of_all = (tuple(every._global_forward_hooks), tuple(every._global_forward_pre_hooks))
    return [of_all, *((tuple(part._forward_hooks), tuple(part._forward_pre_hooks)) for part in module.modules())]
