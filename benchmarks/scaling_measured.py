"""What a training step really hands to the collectives, counted in gloo processes on a CPU."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from scaling_model import Layout, Vit, payload
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import moezoo
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel import make_parallel

SMALL = Vit("test_vit", dim=64, depth=6, hidden=192, moe_blocks=3, experts=4, patches=100, classes=8)
"""timm's ``test_vit`` with the MLPs of its last three blocks upcycled."""
IMAGES = 2
KINDS = {
    "allreduce_": "all_reduce",
    "_allgather_base_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "alltoall_base_": "all_to_all",
}


class Traffic(TorchDispatchMode):
    """Counts the bytes of every collective by its kind, also those that torch starts in C++."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func.namespace == "c10d":
            kind = func.overloadpacket.__name__
            # Of an exchange what is sent, of the others the whole, which one of two arguments is.
            sizes = [_size(argument) for argument in args[:2]]
            self.bytes[KINDS.get(kind, kind)] += sizes[1] if kind == "alltoall_base_" else max(sizes)
        return func(*args, **(kwargs or {}))


def build_model() -> torch.nn.Module:
    """The model that :data:`SMALL` describes."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("test_vit", num_classes=SMALL.classes)
    return moezoo.upcycle(model, where="last_half", num_experts=SMALL.experts, top_k=SMALL.top_k)


def measure(parallel: str, expert_parallel: int) -> dict[str, int]:
    """Bytes by kind of collective, of a step's forward, backward and what follows it. In every process."""
    config = replace(TrainingConfig(), parallel=parallel, expert_parallel=expert_parallel)
    spread = make_parallel(config, _Here())  # type: ignore[arg-type]
    model = build_model()
    module = spread.prepare(model)
    images, labels = torch.randn(IMAGES, 3, 160, 160), torch.arange(IMAGES)
    for _ in range(3):  # in the first two steps torch also arranges itself
        traffic = Traffic()
        with traffic, spread.accumulate(module, last=True):
            loss = F.cross_entropy(module(images), labels) + moezoo.aux_loss(model)
            loss.backward()
            spread.finish_backward(model)
        model.zero_grad()
    return dict(traffic.bytes)


def expected(parallel: str, expert_parallel: int, world: int) -> dict[str, int]:
    """The same by the formulas."""
    layout = Layout(world, parallel == "fsdp", expert_parallel)
    total: Counter[str] = Counter()
    for move, size in payload(SMALL, layout, IMAGES, product_bytes=4).items():
        total[move.kind] += size
    return {kind: size for kind, size in total.items() if size}


def _size(argument: Any) -> int:
    if isinstance(argument, Tensor):
        return argument.numel() * argument.element_size()
    return sum(map(_size, argument)) if isinstance(argument, (list, tuple)) else 0


class _Here:
    """What make_parallel needs of an accelerator."""

    device = torch.device("cpu")

    @property
    def num_processes(self) -> int:
        return dist.get_world_size()


def measure_in(world: int, spreads: list[tuple[str, int]]) -> list[dict[str, float]]:
    """Of each ``(parallel, expert_parallel)`` the bytes by kind in ``world`` new processes, the mean over them."""
    with tempfile.TemporaryDirectory() as folder:
        context = torch.multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        args = (world, str(Path(folder) / "store"), spreads, queue)
        torch.multiprocessing.spawn(_rank, args, nprocs=world)
        ranks = [queue.get() for _ in range(world)]
    kinds = [{kind for rank in ranks for kind in rank[i]} for i in range(len(spreads))]
    return [{kind: sum(rank[i][kind] for rank in ranks) / world for kind in kinds[i]} for i in range(len(spreads))]


def _rank(rank: int, world: int, store: str, spreads: list[tuple[str, int]], queue: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, world), rank=rank, world_size=world)
    queue.put([measure(*spread) for spread in spreads])
    dist.barrier()
    dist.destroy_process_group()
