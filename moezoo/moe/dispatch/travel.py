"""The type that tokens travel to the experts and back in, where it is a smaller one than they are computed in."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.checks import check_choice
from moezoo.moe.experts.sources import Sources

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Travel:
    """Rounds a tensor to ``dtype`` and back, as sending it in that type does; its gradient likewise.

    Args:
        dtype: One of :data:`DTYPES`; ``None`` leaves everything as it is.

    Raises:
        ConfigError: ``dtype`` is another type.
    """

    def __init__(self, dtype: str | None = None):
        self.dtype = None if dtype is None else DTYPES[check_choice("dispatch_dtype", dtype, DTYPES)]

    def __call__(self, tensor: Tensor) -> Tensor:
        return tensor if self.dtype is None else tensor.to(self.dtype).to(tensor.dtype)

    def refuse_sources(self, sources: Sources) -> Sources:
        """``sources`` as they are.

        Raises:
            InputError: They would have to be rounded.
        """
        if self.dtype is not None:
            raise InputError(f"sources= do not go with dispatch_dtype={self!s}: only the layer's own input is rounded.")
        return sources

    def __str__(self) -> str:
        return "None" if self.dtype is None else str(self.dtype).removeprefix("torch.")
