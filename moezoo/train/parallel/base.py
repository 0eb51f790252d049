"""One process: every operation between processes is nothing or the identity; the strategies for many build on it."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from moezoo.train.config import TrainingConfig


class Parallel:
    """How a run is spread over processes. This one does it alone.

    What is collective must be called by every process, in the same order.
    """

    device_mesh: DeviceMesh | None = None
    """(dp, ep) where experts are spread, else ``None``."""

    def __init__(self, config: TrainingConfig, device: torch.device):
        self.config, self.device = config, device
        many = dist.is_available() and dist.is_initialized()
        self.rank: int = dist.get_rank() if many else 0
        self.world: int = dist.get_world_size() if many else 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's files."""
        return self.rank == 0

    @property
    def undivided(self) -> bool:
        """Whether the model can be run in one process alone: its parameters are in none shared out."""
        return self.world == 1 or (self.config.parallel == "ddp" and self.config.expert_parallel == 1)

    def prepare(self, model: nn.Module, *, unused: bool = False) -> nn.Module:
        """Spread ``model``, which lies on its device, in place; what the training forward is to be called on.

        To be called before the optimiser is built: parameters may be replaced. ``unused`` says that some of them may
        get no gradient. Collective.
        """
        return model

    def accumulate(self, module: nn.Module, last: bool) -> AbstractContextManager:
        """Around the forward and backward of one micro-batch; gradients are exchanged in the ``last`` alone.

        ``module`` is what :meth:`prepare` returned.
        """
        return nullcontext()

    def finish_backward(self, model: nn.Module) -> None:
        """After the last micro-batch: exchange the gradients that no wrapper does. Collective."""

    def grad_norm(self, model: nn.Module) -> Tensor:
        """() the norm of the whole model's gradient. Collective."""
        return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])

    def clip(self, model: nn.Module, max_norm: float, norm: Tensor) -> None:
        """Scale the gradients down to ``max_norm``, where ``norm`` is what :meth:`grad_norm` gave."""
        nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is true in one of the processes. Collective."""
        return bool(flag)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over the processes, a new tensor where the given one is. Collective."""
        return tensor.clone()

    def gather(self, item: Any) -> list[Any]:
        """The ``item`` of every process, by rank, in every process. Collective; it is pickled between them."""
        return [item]

    def share_statistics(self, model: nn.Module) -> None:
        """Give every process the first one's running statistics of batch norms, which are those that are saved.
        Collective."""

    def barrier(self) -> None:
        """Wait for all processes. Collective."""

    def release(self, model: nn.Module) -> nn.Module:
        """Undo :meth:`prepare`: ``model`` with whole, plain parameters in every process. Collective."""
        return model
