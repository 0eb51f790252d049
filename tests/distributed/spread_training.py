"""What the ranks of the tests do: train a small model with every kind of layer, alone or together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

import moezoo
from moezoo.moe import MoELayer
from moezoo.moe.parallel import expert_parameters
from moezoo.moe.routers import SoftmaxTopKRouter, step_routers
from moezoo.train.checkpoint import (
    load_checkpoint,
    load_model_state,
    load_optimizer_state,
    model_state,
    newest_checkpoint,
    optimizer_state,
    save_checkpoint,
)
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel import make_parallel

DIM, CLASSES, TOKENS = 6, 3, 4
LAYERS: tuple[dict[str, Any], ...] = (
    {"top_k": 2, "num_shared_experts": 1, "aux_weights": {"load_balancing": 0.1, "router_z": 0.01, "importance": 0.1}},
    {"expert": "glu", "router": "sigmoid_bias", "router_args": {"bias_rate": 0.05}, "aux_weights": {"kl_balance": 0.1}},
    {"expert": "residual_mlp", "router": "relu", "top_k": 2, "router_args": {"l1_coefficient": 0.1}},
    {"expert": "lora", "router": "soft", "expert_args": {"rank": 2}},
)


def make_member(expert: int) -> nn.Module:
    return nn.Sequential(nn.Linear(DIM, 3 + expert), nn.GELU(), nn.Linear(3 + expert, DIM))


MODULES: tuple[dict[str, Any], ...] = (
    LAYERS[0],
    {"expert": "modules", "expert_args": {"make": make_member}},
    {"expert": "mixed", "top_k": 2, "expert_args": {"kinds": ["mlp", "zero", "glu", "constant"]}},
)
"""Experts in lists of modules, which cannot be spread."""


class Block(nn.Module):
    def __init__(self, num_experts: int, **layer: Any):
        super().__init__()
        self.norm = nn.LayerNorm(DIM)
        self.moe = MoELayer(DIM, num_experts=num_experts, hidden_dim=5, **layer)
        self.scale = nn.Parameter(torch.tensor(0.5))  # no axis to shard

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.moe(self.norm(x))


class Small(nn.Module):
    """(B, TOKENS, DIM) to (B, CLASSES), through a layer of every kind that can be spread."""

    def __init__(self, num_experts: int = 4, layers: tuple[dict[str, Any], ...] = LAYERS):
        super().__init__()
        self.embed = nn.Linear(DIM, DIM)
        self.blocks = nn.ModuleList(Block(num_experts, **layer) for layer in layers)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


@dataclass(frozen=True)
class Case:
    """A training: which model, how long, and how it is spread."""

    parallel: str = "ddp"
    expert_parallel: int = 1
    steps: int = 20
    micro: int = 2
    """Micro-batches a step."""
    dtype: torch.dtype = torch.float64
    optimizer: str = "adamw"
    num_experts: int = 4
    biased: bool = False
    """All tokens go to the first experts, where a plain router chooses them."""
    clip: float | None = 1.0
    layers: tuple[dict[str, Any], ...] = LAYERS
    name: str | None = None
    """A registered model instead of the small one."""
    recompute: bool = False
    """With activation checkpointing, of a registered model."""
    shape: tuple[int, ...] = (TOKENS, DIM)
    """Of an image."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        if self.name is not None:
            # No two ways of spreading draw the same for dropout.
            model = moezoo.create_model(self.name, dropout=0.0).to(self.dtype)
            model.set_grad_checkpointing(self.recompute)
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()  # its statistics in training are those of one process
            return model
        model = Small(self.num_experts, self.layers).to(self.dtype)
        for block in model.blocks:
            for name, p in block.moe.experts.named_parameters():
                if name.startswith("up_"):  # a change of zero would make the other matrix idle
                    nn.init.normal_(p, std=0.3)
        if self.biased:
            for block in model.blocks:
                if isinstance(block.moe.router, SoftmaxTopKRouter):
                    nn.init.zeros_(block.moe.router.weight)  # ties go to the first experts
                    block.moe.router.weight.requires_grad_(False)
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        learned = [p for p in model.parameters() if p.requires_grad]
        return torch.optim.AdamW(learned, lr=0.01) if self.optimizer == "adamw" else torch.optim.SGD(learned, lr=0.05)

    def batches(self, world: int) -> list[list[tuple[list[Tensor], list[Tensor]]]]:
        """Of every step and micro-batch the images and labels of every rank; the last micro-batch is uneven."""
        generator = torch.Generator().manual_seed(1)
        steps = []
        for _ in range(self.steps):
            micros = []
            for micro in range(self.micro):
                size = 8 if micro < self.micro - 1 else 6
                images = torch.randn(size, *self.shape, generator=generator, dtype=self.dtype)
                labels = images.flatten(1)[:, :CLASSES].argmax(1)
                # 4, 4 of 8 for two ranks; 4, 2 of 6; of four ranks the last has none in the uneven one
                cuts = [min(-(-8 // world) * (r + 1), size) for r in range(world - 1)]
                micros.append((list(images.tensor_split(cuts)), list(labels.tensor_split(cuts))))
            steps.append(micros)
        return steps


class _Here:
    """What make_parallel needs of an accelerator."""

    device = torch.device("cpu")

    @property
    def num_processes(self) -> int:
        return dist.get_world_size()


def train_together(case: Case, folder: Path | None = None, until: int | None = None) -> dict[str, Any]:
    """In every rank: train by the case's strategy; the losses and the released parameters.

    With a ``folder`` it goes on from the newest checkpoint there, and writes one after ``until`` steps.
    """
    config = replace(TrainingConfig(), parallel=case.parallel, expert_parallel=case.expert_parallel)
    parallel = make_parallel(config, _Here())  # type: ignore[arg-type]
    model = case.model()
    kinds = [type(m) for m in model.modules()]
    names = list(model.state_dict())
    module = parallel.prepare(model)
    assert list(model.state_dict()) == names
    check_held(model, case, parallel.world)
    optimizer = case.build_optimizer(model)
    begin = resume(folder, model, optimizer) if folder else 0
    losses, norms = [], []
    for micros in case.batches(parallel.world)[begin:until]:
        optimizer.zero_grad()
        loss_sum = torch.zeros((), dtype=case.dtype)
        for i, (images, labels) in enumerate(micros):
            count = sum(len(part) for part in labels)
            with parallel.accumulate(module, last=i == len(micros) - 1):
                logits = module(images[parallel.rank])
                task = F.cross_entropy(logits, labels[parallel.rank], reduction="sum") * parallel.world / count
                loss = (task + moezoo.aux_loss(model)) / len(micros)
                loss.backward()
            loss_sum += loss.detach()
        parallel.finish_backward(model)
        missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing, missing
        norm = parallel.grad_norm(model)
        if case.clip is not None:
            parallel.clip(model, case.clip, norm)
        optimizer.step()
        step_routers(model)
        losses.append(float(parallel.sum(loss_sum)) / parallel.world)
        norms.append(float(norm))
    if folder:
        tensors, values = optimizer_state(optimizer, model)
        groups = {"model": model_state(model), "optimizer": tensors}
        save_checkpoint(folder, until or case.steps, groups, {"optimizer": values, "step": until or case.steps})
    assert parallel.release(model) is model
    assert [type(m) for m in model.modules()] == kinds
    state = model.state_dict()
    assert all(type(p) is nn.Parameter for p in model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(1, *case.shape, dtype=case.dtype))  # no collective is left in it
    return {"losses": losses, "norms": norms, "state": {n: t.clone() for n, t in state.items()}}


def check_held(model: nn.Module, case: Case, world: int) -> None:
    """A process holds no more than its share."""
    held = {name: p.to_local().numel() if isinstance(p, DTensor) else p.numel() for name, p in model.named_parameters()}
    if case.parallel == "fsdp":
        assert sum(held.values()) < 1.5 * sum(p.numel() for p in model.parameters()) / world
    elif case.expert_parallel > 1:
        spread = list(expert_parameters(model))
        assert len(spread) > 4
        assert all(held[name] * case.expert_parallel == p.numel() for name, p in spread)
    else:
        assert sum(held.values()) == sum(p.numel() for p in model.parameters())


def resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest checkpoint, if there is one; the steps taken."""
    path = newest_checkpoint(folder)
    if path is None:
        return 0
    tensors, values = load_checkpoint(path)
    load_model_state(model, tensors["model"])
    load_optimizer_state(optimizer, model, tensors["optimizer"], values["optimizer"])
    return values["step"]


def train_all(cases: list[Case]) -> list[dict[str, Any]]:
    """One after the other, which spares starting the ranks anew."""
    return [train_together(case) for case in cases]


def train_alone(case: Case, world: int) -> dict[str, Any]:
    """The same in one process, with the images of all ranks."""
    model = case.model()
    optimizer = case.build_optimizer(model)
    losses, norms = [], []
    for micros in case.batches(world):
        optimizer.zero_grad()
        total = torch.zeros((), dtype=case.dtype)
        for images, labels in micros:
            loss = (F.cross_entropy(model(torch.cat(images)), torch.cat(labels)) + moezoo.aux_loss(model)) / len(micros)
            loss.backward()
            total += loss.detach()
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        if case.clip is not None:
            nn.utils.clip_grads_with_norm_(model.parameters(), case.clip, norm)
        optimizer.step()
        step_routers(model)
        if case.biased:
            assert not model.blocks[0].moe.experts.w_in.grad[2:].any(), "these experts are meant to be idle"
        losses.append(float(total))
        norms.append(float(norm))
    return {"losses": losses, "norms": norms, "state": model.state_dict()}
