"""Every process keeps a piece of every parameter and gathers a block's while it computes (FSDP2's ``fully_shard``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, Shard

from moezoo.moe.parallel import expert_parameters
from moezoo.moe.parallel.experts import SpreadExperts
from moezoo.moe.routers import Router
from moezoo.train.parallel.blocks import find_blocks
from moezoo.train.parallel.cuts import find_cut
from moezoo.train.parallel.gradients import add_up, local_gradients
from moezoo.train.parallel.many import ManyProcesses
from moezoo.train.parallel.meshes import make_flat_mesh
from moezoo.train.parallel.unshard import unshard

FORWARDS = ("encode_image", "encode_text")
"""Methods that compute as ``forward`` does, where a model has them: its parameters are gathered for them too."""


class Sharded(ManyProcesses):
    """Pieces of every block's parameters, of their gradients and of the optimiser's state.

    Spread experts are cut further among the processes that have the same ones. Parameters that cannot be cut, such as
    scalars, stay whole in every process.
    """

    whole: Sequence[nn.Parameter] = ()
    """Those: no hook exchanges their gradients."""

    def wrap(self, model: nn.Module, unused: bool) -> nn.Module:
        if self.device_mesh is None:
            self._same_everywhere(model)
        self.whole = self._find_whole(model)
        half = torch.bfloat16 if self.config.mixed_precision == "bf16" else None
        settings: dict[str, Any] = {
            "mesh": make_flat_mesh(self.config, self.device, self.world),
            "mp_policy": MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32 if half else None),
            # The root too: outside a forward and its backward all parameters are pieces then.
            "reshard_after_forward": True,
            "shard_placement_fn": self._cut,
            "ignored_params": {*self.whole, *(p for _, p in expert_parameters(model))},
        }
        if self.device_mesh is not None:
            for experts in _all(model, SpreadExperts):
                own = {"mesh": self.device_mesh["dp"], "shard_placement_fn": self._cut_experts}
                fully_shard(experts, **{**settings, **own, "ignored_params": set(self.whole)})
        if half is not None:  # routing stays in float32
            for router in _all(model, Router):
                fully_shard(router, **{**settings, "mp_policy": MixedPrecisionPolicy()})
        for block in find_blocks(model):
            fully_shard(block, **settings)
        fully_shard(model, **settings)
        for name in FORWARDS:
            if callable(getattr(model, name, None)):
                register_fsdp_forward_method(model, name)
        return model

    def _find_whole(self, model: nn.Module) -> list[nn.Parameter]:
        # Spread experts are cut apart from their block, so what they share with each other is in nobody's group.
        shared = {p for m in _all(model, SpreadExperts) for part in m.children() for p in part.parameters()}
        return [
            p
            for p in model.parameters()
            if not isinstance(p, DTensor) and (find_cut(p.shape, self.world) is None or p in shared)
        ]

    def _cut(self, p: nn.Parameter) -> Shard:
        return Shard(find_cut(p.shape, self.world) or 0)

    def _cut_experts(self, p: nn.Parameter) -> Shard:
        """Rather through the experts than between them, since between them they are spread already."""
        assert self.device_mesh is not None
        return Shard(find_cut(p.shape, self.device_mesh["dp"].size(), spare=0.0) or 0)

    @contextmanager
    def accumulate(self, module: nn.Module, last: bool) -> Iterator[None]:
        assert isinstance(module, FSDPModule)
        module.set_requires_gradient_sync(last)
        yield

    def finish_backward(self, model: nn.Module) -> None:
        # Those of experts are means already, over the processes with the same experts.
        for gradient in local_gradients(p for _, p in expert_parameters(model)):
            gradient.div_(self.config.expert_parallel)
        everyone = dist.group.WORLD
        assert everyone is not None
        add_up(local_gradients(self.whole), everyone, self.world)
        self.share_statistics(model)

    def unwrap(self, model: nn.Module) -> None:
        unshard(model)
        for name in FORWARDS:
            vars(model).pop(name, None)
        self.whole = ()


def _all(model: nn.Module, kind: type[Any]) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, kind)]
