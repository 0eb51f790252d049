"""Checks of what is to be drawn: a picture of NaN is a picture of nothing, and says so late."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from moezoo.errors import InputError


def finite_array(name: str, values: Any, *, dims: int | tuple[int, ...]) -> np.ndarray:
    """``values`` (a tensor, an array or nested lists) as a float64 array.

    Args:
        name: Of the argument, for the message.
        values: What was given.
        dims: How many dimensions it may have.

    Raises:
        InputError: It has another shape, no element, or one that is NaN or infinite.
    """
    if isinstance(values, Tensor):
        values = values.detach().cpu().double().numpy()
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers in equally long rows, got {type(values).__name__}") from None
    allowed = (dims,) if isinstance(dims, int) else dims
    if array.ndim not in allowed or array.size == 0:
        wanted = " or ".join(str(each) for each in allowed)
        raise InputError(f"{name} must have {wanted} dimensions and at least one number, got shape {array.shape}")
    if not np.isfinite(array).all():
        wrong = np.argwhere(~np.isfinite(array))
        place = tuple(int(i) for i in wrong[0])
        raise InputError(f"{name} must be finite, got {len(wrong)} numbers that are not, the first at {place}")
    return array
