"""An optimiser's state by parameter name: groups may change order, and shards their number.

Tensors go into a safetensors file as ``exp_avg:blocks.0.weight``; scalars, be they numbers or tensors of one value
(``step``), and the groups' settings into JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from moezoo.errors import CheckpointError
from moezoo.hub.state import shown
from moezoo.train.checkpoint.groups import load_groups, saved_groups
from moezoo.train.checkpoint.names import fill, named_parameters, whole, whole_ones

Scalar = dict[str, Any]


def optimizer_state(optimizer: Optimizer, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything ``optimizer`` remembers about the parameters of ``model``: whole tensors, and plain values.

    Every process calls it, since sharded tensors are put together; the first one gets the tensors, the others an
    empty mapping and the same values.

    Raises:
        CheckpointError: The optimiser holds a parameter that is not the model's, or remembers something that is
            neither a tensor nor a plain number; both are named.
    """
    optimizer = bare(optimizer)
    names = _names(optimizer, model)
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, Scalar] = {}
    for parameter, name in names.items():
        scalars[name] = {}
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor) and value.dim() == 0:
                number = whole(value)
                scalars[name][key] = {"dtype": str(number.dtype).removeprefix("torch."), "value": number.item()}
            elif isinstance(value, Tensor) and _fits(value, parameter):
                tensors[f"{key}:{name}"] = value
            elif value is None or isinstance(value, (bool, int, float, str)):
                scalars[name][key] = {"value": value}
            else:
                raise CheckpointError(
                    f"the state of {type(optimizer).__name__} cannot be saved: {key!r} of {name!r} is a "
                    f"{type(value).__name__}; tensors and plain numbers can."
                )
    return whole_ones(tensors), {
        "type": type(optimizer).__name__,
        "scalars": scalars,
        "groups": saved_groups(optimizer, names),
    }


def load_optimizer_state(
    optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], values: Mapping[str, Any]
) -> None:
    """Give ``optimizer`` the state and settings that :func:`optimizer_state` saw. Every process calls it.

    Raises:
        CheckpointError: It is another kind of optimiser, trains other parameters, or groups them so that their
            settings cannot be told; the optimiser is as it was.
    """
    optimizer = bare(optimizer)
    names = _names(optimizer, model)
    if values["type"] != type(optimizer).__name__:
        raise CheckpointError(f"the checkpoint was written with {values['type']}, not {type(optimizer).__name__}")
    saved, own = set(values["scalars"]), set(names.values())
    if saved != own:
        raise CheckpointError(
            "the checkpoint's optimizer trains other parameters. "
            f"Only in the checkpoint ({len(saved - own)}): {shown(sorted(saved - own)) or 'none'}; "
            f"only here ({len(own - saved)}): {shown(sorted(own - saved)) or 'none'}."
        )
    by_name: dict[str, dict[str, Tensor]] = {name: {} for name in own}
    for full_key, tensor in tensors.items():
        key, _, name = full_key.partition(":")
        by_name[name][key] = tensor
    settings = load_groups(optimizer, names, values["groups"])
    fresh: dict[Tensor, dict[str, Any]] = {}
    for group in optimizer.param_groups:
        on_device = bool(group.get("fused") or group.get("capturable"))
        for parameter in group["params"]:
            name = names[parameter]
            state = _state(name, parameter, by_name[name], values["scalars"][name], on_device)
            if state:
                fresh[parameter] = state
    for group, setting in zip(optimizer.param_groups, settings, strict=True):
        group.update(setting)
    optimizer.state.clear()
    optimizer.state.update(fresh)


def bare(optimizer: Any) -> Optimizer:
    """The optimiser inside accelerate's wrapper."""
    while (inner := getattr(optimizer, "optimizer", None)) is not None:
        optimizer = inner
    return optimizer


def _state(
    name: str, parameter: nn.Parameter, tensors: Mapping[str, Tensor], scalars: Mapping[str, Scalar], on_device: bool
) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for key, tensor in tensors.items():
        if isinstance(parameter, DTensor) and tensor.shape != parameter.shape:
            raise CheckpointError(f"{key!r} of {name!r} has shape {tuple(tensor.shape)} and cannot be sharded")
        # Memory of its own, since the checkpoint's tensors may be loaded again, and laid out as the parameter's.
        same = tensor.shape == parameter.shape
        place = torch.empty_like(parameter if same else tensor, dtype=tensor.dtype, device=parameter.device)
        fill(place, tensor)
        state[key] = place
    for key, scalar in scalars.items():
        if "dtype" in scalar:
            # torch keeps the count of steps on the CPU, unless the kernel that reads it runs on the device.
            device = torch.device("cpu") if key == "step" and not on_device else parameter.device
            state[key] = torch.tensor(scalar["value"], dtype=getattr(torch, scalar["dtype"]), device=device)
        else:
            state[key] = scalar["value"]
    return state


def _names(optimizer: Optimizer, model: nn.Module) -> dict[nn.Parameter, str]:
    known = {parameter: name for name, parameter in named_parameters(model)}
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if strange := [tuple(parameter.shape) for parameter in own if parameter not in known]:
        raise CheckpointError(
            f"{len(strange)} parameters of the optimizer are not the model's, the first of shape {strange[0]}"
        )
    return {parameter: known[parameter] for parameter in own}


def _fits(value: Tensor, parameter: nn.Parameter) -> bool:
    """Whether a sharded parameter's state can be sharded again: any shape will do for a whole one."""
    return not isinstance(parameter, DTensor) or (isinstance(value, DTensor) and value.shape == parameter.shape)
