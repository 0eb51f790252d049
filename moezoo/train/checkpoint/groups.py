"""The settings of an optimiser's parameter groups, matched by the names of the parameters in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from moezoo.errors import CheckpointError
from moezoo.hub.state import shown

_NOT_SAVED = frozenset({"params", "param_names", "foreign", "fused", "capturable", "differentiable"})
"""Which parameters, said otherwise; and which kernel computes the step, the choice of this machine."""


def saved_groups(optimizer: Optimizer, names: Mapping[nn.Parameter, str]) -> list[dict[str, Any]]:
    """Per group ``{"names": [...], "settings": {...}}``, plain JSON.

    Raises:
        CheckpointError: A setting is neither a number, a text nor a list of them.
    """
    groups = []
    for index, group in enumerate(optimizer.param_groups):
        settings: dict[str, Any] = {}
        for key, value in group.items():
            if key in _NOT_SAVED:
                continue
            if isinstance(value, Tensor) and value.numel() == 1:
                settings[key] = {"dtype": str(value.dtype).removeprefix("torch."), "value": value.item()}
                continue
            items = value if isinstance(value, (list, tuple)) else [value]
            if not all(item is None or isinstance(item, (bool, int, float, str)) for item in items):
                raise CheckpointError(
                    f"the state of {type(optimizer).__name__} cannot be saved: {key!r} of group {index} is a "
                    f"{type(value).__name__}; numbers, texts and lists of them can."
                )
            settings[key] = list(value) if isinstance(value, (list, tuple)) else value
        groups.append({"names": [names[parameter] for parameter in group["params"]], "settings": settings})
    return groups


def load_groups(
    optimizer: Optimizer, names: Mapping[nn.Parameter, str], saved: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For each group of ``optimizer``, in its order, the settings saved for the parameters in it.

    Raises:
        CheckpointError: A group now holds parameters that had different settings.
    """
    origin = {name: index for index, group in enumerate(saved) for name in group["names"]}
    result = []
    for index, group in enumerate(optimizer.param_groups):
        found = sorted({origin[names[parameter]] for parameter in group["params"]})
        settings = [saved[number]["settings"] for number in found]
        if any(setting != settings[0] for setting in settings):
            keys = sorted({key for one in settings for key in one if any(one[key] != o.get(key) for o in settings)})
            raise CheckpointError(
                f"group {index} of the optimizer holds parameters that had different {shown(keys)} when the "
                "checkpoint was written: group them as they were."
            )
        result.append(
            {key: _as_before(group.get(key), value) for key, value in (settings[0] if settings else {}).items()}
        )
    return result


def _as_before(current: Any, value: Any) -> Any:
    """``value`` in the type that the optimiser holds, or held if it has none yet: JSON knows no tuples or tensors."""
    dtype = getattr(torch, value["dtype"]) if isinstance(value, dict) else None
    value = value["value"] if isinstance(value, dict) else value
    if isinstance(current, Tensor):
        return current.new_tensor(value).reshape(current.shape)
    if current is None and dtype is not None:
        return torch.tensor(value, dtype=dtype)
    return tuple(value) if isinstance(current, tuple) else value
