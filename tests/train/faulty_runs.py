"""What the nursery's children do."""

from __future__ import annotations

import datetime
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader, Dataset

from moezoo.cli import main
from moezoo.config import decode
from moezoo.data import Splits
from moezoo.errors import Interrupted, OutputError
from moezoo.moe import MoELayer
from moezoo.moe.parallel import apply_expert_parallel
from moezoo.train import TrainingConfig, fit, is_main_process, seeded
from moezoo.train.checkpoint import (
    load_checkpoint,
    load_model_state,
    load_optimizer_state,
    model_state,
    newest_checkpoint,
    optimizer_state,
    save_checkpoint,
)
from moezoo.train.lock import own_run_folder
from moezoo.train.progress import Silent
from moezoo.train.signals import StopSignals, shield_worker


def warm_up() -> None:
    """Import what a run imports on its way, once for all children."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        train(folder, epochs=1)


def make_model(width: int = 8) -> nn.Module:
    """Small, with everything that a resumed run has to remember: dropout, running statistics, a router's own bias."""
    with seeded(0):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(4, width),
            nn.BatchNorm1d(width),
            MoELayer(width, num_experts=4, top_k=2, hidden_dim=4, router="sigmoid_bias"),
            nn.Dropout(0.2),
            nn.Linear(width, 4),
        )


class Noisy(Dataset):
    """Images with noise of three generators. Reading takes ``pause`` seconds; image ``at`` does ``fault``."""

    def __init__(
        self,
        count: int,
        *,
        fault: str = "",
        at: int = -1,
        pause: float = 0.0,
        noise: float = 0.1,
        prefix: str = "number",
    ):
        generator = torch.Generator().manual_seed(0)
        self.labels = torch.arange(count) % 4
        self.images = torch.randn(count, 1, 2, 2, generator=generator)
        self.images.view(count, 4)[torch.arange(count), self.labels] += 1
        self.fault, self.at, self.pause, self.noise, self.prefix = fault, at, pause, noise, prefix

    def __len__(self) -> int:
        return len(self.labels)

    def describe(self, index: int) -> str:
        return f"images/{self.prefix} {index}.png"

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self.pause:
            time.sleep(self.pause)
        noise = torch.randn(1, 2, 2) + random.random() + np.random.rand() if self.noise else 0.0
        image = self.images[index] + self.noise * noise
        if index == self.at:
            if self.fault == "kill":
                os.kill(os.getpid(), 9)
            if self.fault == "raise":
                raise ValueError("the decoder gives up")
            if self.fault == "nan":
                image = image * torch.nan
        return image.float(), int(self.labels[index])


class Told(Silent):
    """Touches ``started`` at the start, and ``step-N`` files if asked to."""

    def __init__(self, folder: Path, steps: bool):
        self.folder, self.steps, self.number = folder, steps, 0

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self.number = done
        (self.folder / "started").touch()

    def step(self, loss: float, routing: tuple = (), use: object = None) -> None:
        self.number += 1
        if self.steps:
            (self.folder / f"told-{self.number}").touch()


OPTIONS = {"epochs": 3, "batch_size": 5, "lr": 0.02, "warmup_epochs": 0.5, "device": "cpu", "ema_decay": 0.9}
OPTIONS |= {"mixup": 0.3, "cutmix": 0.5, "save_every": 2, "grad_accum_steps": 2}


def train(
    out: str,
    *,
    told: str = "",
    resume: str | None = "auto",
    data: dict[str, Any] | None = None,
    val_pause: float = 0.0,
    width: int = 8,
    **options: Any,
) -> int:
    """A run; its final weights go into ``out/final.safetensors``. Ends as the command line does."""
    part = Noisy(**{"count": 37, **(data or {})})
    val, test = Noisy(12, noise=0.0, pause=val_pause), Noisy(12, noise=0.0)
    splits = Splits("noisy", part, val, test, tuple("abcd"), (0.5,), (0.5,))
    model = make_model(width)
    observer = Told(Path(told or out), bool(told))
    config = decode(TrainingConfig, {**OPTIONS, **options}, where="training")
    try:
        fit(model, splits, config, out=out, observer=observer, resume=resume)
    except Interrupted as error:
        print(error)
        return error.exit_code
    if is_main_process():
        save_file(model_state(model), Path(out, "final.safetensors"))
    return 0


def train_as(rank: int, world: int, port: int, out: str, **options: Any) -> int:
    """One process of a run of several, as ``torchrun`` would start it."""
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    return train(out, **options)


def command_line(*words: str) -> None:
    """``moezoo`` with these words."""
    sys.argv = ["moezoo", *words]
    main()


def hold(folder: str, ready: str, seconds: float, worker: bool = False) -> None:
    """Own a run folder for a while, perhaps with a forked worker that outlives us."""
    with own_run_folder(folder):
        if worker and os.fork() == 0:
            time.sleep(seconds)
            os._exit(0)
        Path(ready).touch()
        time.sleep(seconds)


class Slow(Dataset):
    """Items that take a hundredth of a second, and the process that read them."""

    def __len__(self) -> int:
        return 100_000

    def __getitem__(self, index: int) -> int:
        time.sleep(0.01)
        return os.getpid()


def read_until_stopped(folder: str, obey: bool) -> int:
    """Read with two workers; asked to stop, read ten batches more and end in order, or never end."""
    left = None
    with StopSignals() as stop:
        for batch in DataLoader(Slow(), batch_size=2, num_workers=2, worker_init_fn=shield_worker):
            Path(folder, f"worker-{int(batch[0])}").touch()
            if stop.requested is not None and obey:
                left = 10 if left is None else left - 1
                Path(folder, "asked").touch()
                if left == 0:
                    return 128 + stop.requested
    return 1


def spread(rank: int, world: int, how: str, store: str, source: str, target: str) -> None:
    """One of several processes that train a little, or load what others saved, and save."""
    dist.init_process_group(
        "gloo", f"file://{store}", rank=rank, world_size=world, timeout=datetime.timedelta(seconds=30)
    )
    mesh = dist.init_device_mesh("cpu", (world,), mesh_dim_names=("all",))
    torch.manual_seed(0 if not source else 1)
    model = nn.Sequential(
        nn.Linear(5, 7), MoELayer(7, num_experts=12, hidden_dim=3), nn.BatchNorm1d(7), nn.Linear(7, 2)
    )
    if how == "fsdp":
        fully_shard(model[1])
        fully_shard(model)
    if how == "ep":
        apply_expert_parallel(model, mesh)
    groups = [{"params": list(part.parameters()), "lr": 0.1 / n} for n, part in enumerate(model, start=1)]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], foreach=False)
    if source:
        newest = newest_checkpoint(Path(source))
        assert newest is not None
        tensors, values = load_checkpoint(newest)
        load_model_state(model, tensors["model"])
        load_optimizer_state(optimizer, model, tensors["optimizer"], values)
    else:
        for _ in range(2):
            optimizer.zero_grad()
            model(torch.randn(9, 5)).square().mean().backward()
            optimizer.step()
    held, values = optimizer_state(optimizer, model)
    content = {"model": model_state(model), "optimizer": held}
    assert all(bool(tensors) == (rank == 0) for tensors in content.values())
    with own_run_folder(target):
        dist.barrier()
        assert f'"pid": {os.getpid()},' in Path(target, "run.lock").read_text() or rank > 0
        assert save_checkpoint(Path(target, "checkpoints"), 2, content, values).name == "step-00000002"
        dist.barrier()
    try:
        save_checkpoint(Path(store, "below a file"), 2, content, values)
    except OutputError as error:
        assert "below a file" in str(error)  # noqa: PT017
    else:
        raise AssertionError("every process learns of the first one's error")
    dist.destroy_process_group()
