"""What an answer depends on: the content of the inputs, and the state of the module that answers."""

from __future__ import annotations

import copy
import hashlib
import types
import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils._pytree import tree_flatten, tree_flatten_with_path
from torch.utils.weak import WeakTensorKeyDictionary

_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)


def content_key(args: tuple, kwargs: dict[str, Any]) -> bytes | None:
    """A hash of the inputs' values, dtypes, shapes and devices; ``None`` where an input is not plain data, or a
    gradient through it is wanted."""
    total = hashlib.blake2b(digest_size=32)
    leaves, shape = tree_flatten_with_path((args, dict(sorted(kwargs.items()))))
    total.update(repr(shape).encode())
    for _, leaf in leaves:
        if type(leaf) in (Tensor, nn.Parameter):
            if leaf.layout is not torch.strided or leaf.is_meta or leaf.is_quantized:
                return None
            if leaf.requires_grad and torch.is_grad_enabled():
                return None
            plain = leaf.detach().resolve_conj().resolve_neg().cpu().contiguous()
            total.update(f"{leaf.dtype} {tuple(leaf.shape)} {leaf.device} ".encode())
            total.update(plain.reshape(-1).view(torch.uint8).numpy().data)
        elif type(leaf) in _PLAIN:
            total.update(f"{type(leaf).__name__} {leaf!r} ".encode())
        else:
            return None
    kinds = {leaf.device.type for _, leaf in leaves if isinstance(leaf, Tensor)}
    for kind in sorted(kinds):
        total.update(f"{kind} {torch.is_autocast_enabled(kind)} {torch.get_autocast_dtype(kind)} ".encode())
    return total.digest()


class ModuleState:
    """The parameters, buffers and settings of a module as they are now, for finding out whether they still are.

    Writes that torch counts are seen (``copy_``, ``load_state_dict``, in-place operations, ``.to()``), the steps of
    optimisers, new tensors and modules in the place of old ones, and settings that are plain values (a budget, a
    threshold), lists of them, or functions. A write through ``tensor.data`` or NumPy is not.
    """

    def __init__(self, module: nn.Module):
        self.tensors = [(weakref.ref(t), *_written(t)) for t in _tensors(module)]
        self.settings = _settings(module)

    def is_of(self, module: nn.Module) -> bool:
        """Whether nothing changed since."""
        tensors = _tensors(module)
        return (
            len(tensors) == len(self.tensors)
            and all(
                seen() is t and tuple(before) == _written(t)
                for (seen, *before), t in zip(self.tensors, tensors, strict=True)
            )
            and self.settings == _settings(module)
        )


def countable(module: nn.Module) -> bool:
    """Whether torch counts the writes to every tensor: not to those made in inference mode."""
    return not any(tensor.is_inference() or tensor.is_meta for tensor in _tensors(module))


def _tensors(module: nn.Module) -> list[Tensor]:
    own = [value for part in module.modules() for value in vars(part).values() if type(value) is Tensor]
    return [*module.parameters(), *module.buffers(), *own]


def _written(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.data_ptr(), tensor._version, tensor.dtype, _steps.get(tensor, 0)


def _settings(module: nn.Module) -> list[Any]:
    return [
        (type(part), [(key, _kept(value)) for key, value in vars(part).items() if _is_setting(value)])
        for part in module.modules()
    ]


def _kept(value: Any) -> Any:
    return copy.deepcopy(value) if type(value) is list else value


def _is_setting(value: Any) -> bool:
    """Whether it is plain, and equals itself, as NaN does not. An empty list may be the beginning of a record."""
    if type(value) is tuple or (type(value) is list and value):
        return all(type(leaf) in _PLAIN and leaf == leaf for leaf in tree_flatten(value)[0])
    return type(value) in _FUNCTIONS or (type(value) in _PLAIN and value == value)


def _count_step(optimizer: torch.optim.Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            _steps[parameter] = _steps.get(parameter, 0) + 1


# torch does not count the writes of fused optimisers, nor those of other people's kernels.
_steps: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
register_optimizer_step_post_hook(_count_step)
