"""A whole copy of the model in every process, gradients averaged (``DistributedDataParallel``)."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from moezoo.moe.parallel import expert_parameters
from moezoo.train.parallel.many import ManyProcesses

_IGNORED = "_ddp_params_and_buffers_to_ignore"


class Replicated(ManyProcesses):
    """Replicas, but for spread experts. Idle experts need nothing special: all experts are in every graph."""

    def wrap(self, model: nn.Module, unused: bool) -> nn.Module:
        spread = [name for name, _ in expert_parameters(model)]
        if spread:
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, spread)
        device_ids = [self.device] if self.device.type == "cuda" else None
        # Without the view every gradient would lie in memory twice.
        return DistributedDataParallel(
            model, device_ids=device_ids, gradient_as_bucket_view=True, find_unused_parameters=unused
        )

    def accumulate(self, module: nn.Module, last: bool) -> AbstractContextManager:
        assert isinstance(module, DistributedDataParallel)
        return nullcontext() if last else module.no_sync()

    def unwrap(self, model: nn.Module) -> None:
        if hasattr(model, _IGNORED):
            delattr(model, _IGNORED)
