"""Weights kept as int8 with a scale per output channel, in the place of a module's parameter.

The module keeps its class and its forward. Where it reads ``self.weight`` it finds an :class:`Int8Weight`: ``F.linear``
computes with the whole numbers, whatever else is done with it is done with the numbers they stand for. What is stored,
moved and copied are two plain buffers, ``weight_int8`` and ``weight_scale``.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_map_only

from moezoo.altered.product import product
from moezoo.altered.rounding import plain
from moezoo.errors import InputError

VALUES, SCALE = "_int8", "_scale"
"""What the names of the two buffers end in."""


class Int8Tensor:
    """``values * scale``, for torch's functions a tensor of the scale's dtype without a gradient."""

    requires_grad = False
    is_quantized = False
    grad = None

    def __init__(self, values: Tensor, scale: Tensor, mode: str):
        self.values, self.scale, self.mode = values, scale, mode

    def now(self) -> Int8Tensor:
        """This, for computing with."""
        return self

    def dequantize(self) -> Tensor:
        """The plain tensor."""
        it = self.now()
        return plain(it.values, it.scale)

    # What a module may ask of its weight without computing with it.

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.scale.dtype

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def ndim(self) -> int:
        return self.values.dim()

    def dim(self) -> int:
        return self.values.dim()

    def size(self, *dim: int) -> Any:
        return self.values.size(*dim)

    def numel(self) -> int:
        return self.values.numel()

    def detach(self) -> Int8Tensor:
        return self

    def __len__(self) -> int:
        return len(self.values)

    # Parts of a stack stay int8, so that only what an expert's rows need is computed.

    def unbind(self, dim: int = 0) -> tuple[Any, ...]:
        it = self.now()
        if dim != 0 or it.scale.dim() < 2:
            return it.dequantize().unbind(dim)
        pairs = zip(it.values.unbind(0), it.scale.unbind(0), strict=True)
        return tuple(Int8Tensor(values, scale, it.mode) for values, scale in pairs)

    def __getitem__(self, index: Any) -> Any:
        it = self.now()
        if isinstance(index, int) and it.scale.dim() > 1:
            return Int8Tensor(it.values[index], it.scale[index], it.mode)
        return it.dequantize()[index]

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        it = self.now()
        if (start_dim, end_dim) == (0, 1) and it.scale.dim() == 2:
            return Int8Tensor(it.values.flatten(0, 1), it.scale.flatten(), it.mode)
        return it.dequantize().flatten(start_dim, end_dim)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # copying and pickling ask for what is not there
            raise AttributeError(name)
        return getattr(self.dequantize(), name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({tuple(self.shape)}, {self.mode!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.linear and isinstance(weight := (args[1] if len(args) > 1 else kwargs["weight"]), Int8Tensor):
            x = args[0] if args else kwargs["input"]
            bias = args[2] if len(args) > 2 else kwargs.get("bias")
            if isinstance(x, Tensor) and (bias is None or isinstance(bias, Tensor)):
                it = weight.now()
                return product(x, it.values, it.scale, bias, whole=it.mode == "int8_dynamic")
        if func is F.embedding and isinstance(args[1], Int8Tensor) and args[1].dim() == 2:
            table, index = args[1].now(), args[0]
            return table.values[index].to(table.dtype) * table.scale[index][..., None]
        args, kwargs = tree_map_only(Int8Tensor, lambda t: t.dequantize(), (args, kwargs))
        return func(*args, **kwargs)


def _operator(name: str) -> Any:
    return lambda self, *others: getattr(operator, name)(self.dequantize(), *others)


for _name in ("add", "sub", "mul", "truediv", "matmul", "neg", "pow"):
    setattr(Int8Tensor, f"__{_name}__", _operator(_name))


class Int8Weight(Int8Tensor):
    """That of a module, read from its buffers at every use. In training a use of it is an error.

    Raises:
        InputError: At a use, the module is in training mode.
    """

    def __init__(self, owner: nn.Module, name: str, mode: str):
        self.owner, self.name, self.mode = owner, name, mode

    @property
    def values(self) -> Tensor:  # type: ignore[override]
        return self.owner._buffers[self.name + VALUES]  # type: ignore[return-value]

    @property
    def scale(self) -> Tensor:  # type: ignore[override]
        return self.owner._buffers[self.name + SCALE]  # type: ignore[return-value]

    def now(self) -> Int8Tensor:
        """The weight as it is now, for computing with."""
        if self.owner.training:
            raise InputError(
                f"{type(self.owner).__name__}.{self.name} is quantised to int8, which is for evaluation alone: call "
                "model.eval(), or train the model that it was made from."
            )
        return Int8Tensor(self.values, self.scale, self.mode)
