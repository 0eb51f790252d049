"""What every strategy for many processes shares: speaking with the others, and experts spread among them."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.nn.modules.batchnorm import _BatchNorm

from moezoo.moe import set_balance_scope
from moezoo.moe.parallel import apply_expert_parallel, expert_parameters, gather_experts
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel.base import Parallel
from moezoo.train.parallel.gradients import add_up, local_gradients, total_norm
from moezoo.train.parallel.meshes import make_mesh


class ManyProcesses(Parallel):
    """Processes that each see their own images and change one model by the mean of their gradients.

    With ``expert_parallel`` above 1 each of that many neighbouring processes keeps its share of the experts, and the
    processes with the same share (``dp``) keep it equal among them.
    """

    def __init__(self, config: TrainingConfig, device: torch.device):
        super().__init__(config, device)
        self.device_mesh: DeviceMesh | None = None
        if config.expert_parallel > 1:
            self.device_mesh = make_mesh(config, device, self.world)

    def prepare(self, model: nn.Module, *, unused: bool = False) -> nn.Module:
        set_balance_scope(model, "global")
        if self.device_mesh is not None:
            self._same_everywhere(model)
            apply_expert_parallel(model, self.device_mesh["ep"])
        return self.wrap(model, unused)

    @abstractmethod
    def wrap(self, model: nn.Module, unused: bool) -> nn.Module:
        """The strategy's own part of :meth:`prepare`."""

    def _same_everywhere(self, model: nn.Module) -> None:
        """Give every process the weights of the first one."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)

    def finish_backward(self, model: nn.Module) -> None:
        """Make the gradients of spread experts, sums over the processes that share them, means over all."""
        if self.device_mesh is not None:
            experts = [p for _, p in expert_parameters(model)]
            add_up(local_gradients(experts), self.device_mesh["dp"].get_group(), self.world)

    def grad_norm(self, model: nn.Module) -> Tensor:
        return total_norm(list(model.parameters()))

    def clip(self, model: nn.Module, max_norm: float, norm: Tensor) -> None:
        factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
        for gradient in local_gradients(model.parameters()):
            gradient.mul_(factor.to(gradient.device))

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(int(flag))))

    def sum(self, tensor: Tensor) -> Tensor:
        # Through the device of the run: a backend may know no other.
        total = tensor.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(tensor.device)

    def gather(self, item: Any) -> list[Any]:
        items: list[Any] = [None] * self.world
        dist.all_gather_object(items, item)
        return items

    def share_statistics(self, model: nn.Module) -> None:
        # DistributedDataParallel's rule, by which it begins every training forward.
        for norm in model.modules():
            if isinstance(norm, _BatchNorm):
                for buffer in norm.buffers(recurse=False):
                    dist.broadcast(buffer, 0)

    def barrier(self) -> None:
        self.sum(torch.zeros(1))

    def release(self, model: nn.Module) -> nn.Module:
        self.unwrap(model)
        gather_experts(model)
        set_balance_scope(model, "local")
        return model

    def unwrap(self, model: nn.Module) -> None:
        """Undo :meth:`wrap`; experts may stay spread."""
