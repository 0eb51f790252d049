"""Names and whole tensors, whatever wraps or shards the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from moezoo.hub.state import unwrapped

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")


def plain_name(name: str) -> str:
    """A parameter's name in the model itself, free of what compiles or checkpoints it."""
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def named_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The model's parameters by their plain names, tied ones once."""
    for name, parameter in unwrapped(model).named_parameters():
        yield plain_name(name), parameter


def whole(tensor: Tensor) -> Tensor:
    """A copy of ``tensor`` on the CPU, put together from its shards; every process calls it for the same tensor."""
    tensor = tensor.detach()
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.to("cpu", copy=True)


def whole_ones(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """:func:`whole` of each in the first process; the others help to put shards together and get nothing.

    One copy per machine fits into memory where one per process may not.
    """
    first = not dist.is_initialized() or dist.get_rank() == 0
    result = {}
    for name, tensor in tensors.items():
        if first:
            result[name] = whole(tensor)
        elif isinstance(shard := tensor.detach(), DTensor):
            shard.full_tensor()
    return result


def like(full: Tensor, pattern: Tensor) -> Tensor:
    """A whole tensor, the same on every process, sharded and placed as ``pattern``; it keeps its dtype."""
    if isinstance(pattern, DTensor):
        local = full.to(pattern.device)
        return distribute_tensor(local, pattern.device_mesh, pattern.placements, src_data_rank=None)
    return full.to(pattern.device)


@torch.no_grad()
def fill(target: Tensor, full: Tensor) -> None:
    """Overwrite ``target`` by the whole tensor ``full``."""
    target.copy_(like(full, target))
