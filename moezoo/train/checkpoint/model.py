"""A model's parameters and buffers, whole: they fit one process or many."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from moezoo.errors import CheckpointError, WeightsMismatch
from moezoo.hub.header import compare, own_hint
from moezoo.hub.state import shown, unwrapped
from moezoo.train.checkpoint.names import fill, plain_name, whole_ones


def model_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors of ``model.state_dict()`` on the CPU, sharded ones put together.

    Wrappers (``torch.compile``, ``DistributedDataParallel``, activation checkpointing) leave no trace in the names.
    Every process calls it; the first one gets the tensors, the others an empty mapping.

    Raises:
        CheckpointError: The state holds something that is no tensor.
    """
    return whole_ones(_tensors(model))


def load_model_state(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite the model's tensors in place by those of :func:`model_state`. Every process calls it.

    Raises:
        CheckpointError: Names, shapes or dtypes differ, all of them listed; the model is as it was.
    """
    own = _tensors(model)
    try:
        compare(
            {name: (tuple(value.shape), value.dtype) for name, value in own.items()},
            {name: (tuple(value.shape), value.dtype) for name, value in tensors.items()},
            "the checkpoint",
            hint=own_hint(unwrapped(model)),
        )
    except WeightsMismatch as error:
        raise CheckpointError(str(error)) from None
    rounded = [
        f"{name}: checkpoint {str(tensors[name].dtype).removeprefix('torch.')} vs model "
        f"{str(value.dtype).removeprefix('torch.')}"
        for name, value in own.items()
        if value.dtype != tensors[name].dtype
    ]
    if rounded:
        raise CheckpointError(f"the checkpoint does not fit the model. dtype ({len(rounded)}): {shown(rounded)}")
    for name, value in own.items():
        fill(value, tensors[name])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    state = {plain_name(name): value for name, value in unwrapped(model).state_dict().items()}
    if foreign := [
        f"{name} ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)
    ]:
        raise CheckpointError(f"a checkpoint holds tensors only; the model's state also holds {shown(foreign)}")
    return state
