"""Gradients of parameters that lie in pieces: sums between processes, and the norm of the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients as this process holds them: of a DTensor its own piece. Writing to them changes the gradients."""
    return [_local(p.grad) for p in parameters if p.grad is not None]


def add_up(gradients: Sequence[Tensor], group: dist.ProcessGroup, divisor: int) -> None:
    """Replace every gradient by its sum over ``group`` divided by ``divisor``. Collective."""
    alone = dist.get_world_size(group) == 1
    for gradient in gradients:
        gradient.div_(divisor)
    waiting = [] if alone else [dist.all_reduce(gradient, group=group, async_op=True) for gradient in gradients]
    for work in waiting:
        work.wait()


def total_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """() the norm of all gradients: pieces count in every process, what is whole everywhere once. Collective."""
    whole: list[Tensor] = []
    pieces: dict[DeviceMesh, list[Tensor]] = defaultdict(list)
    for p in parameters:
        if isinstance(p.grad, DTensor):
            pieces[p.grad.device_mesh].append(_local(p.grad))
        elif p.grad is not None:
            whole.append(p.grad)
    squares = [nn.utils.get_total_norm(whole).square()] if whole else []
    for mesh, gradients in pieces.items():
        square = nn.utils.get_total_norm(gradients).square()
        for group in mesh.get_all_groups():
            dist.all_reduce(square, group=group)
        squares.append(square)
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros(())


def _local(gradient: Tensor) -> Tensor:
    with torch.no_grad():
        return gradient.to_local() if isinstance(gradient, DTensor) else gradient
