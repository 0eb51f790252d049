"""What ``moezoo train`` costs per step beside a loop written by hand on accelerate: same model, data and optimiser.

    python benchmarks/train_overhead.py --out overhead.json

Both sides run in turns, a few steps each, so that whatever else the machine does hits both. The hand-written loop is
what the README shows plus what nobody leaves out: clipping, a schedule, a loss read every step for the progress bar.
Our side is the whole of ``fit``: randomness per image, the check of every loss and gradient, routing health of every
step, ``steps.jsonl``; without checkpoints and validation, which are not part of a step.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, Dataset

import moezoo
from moezoo.data import ImageTensors, Splits
from moezoo.measure.machine import machine
from moezoo.train import TrainingConfig, seeded
from moezoo.train.course import Course
from moezoo.train.device import make_accelerator
from moezoo.train.folder import open_run
from moezoo.train.keeping import Keeper
from moezoo.train.modes import run_modes, training_mode
from moezoo.train.optim import build_optimizer
from moezoo.train.parts import build_parts
from moezoo.train.progress import Silent
from moezoo.train.signals import StopSignals


def by_hand(model: nn.Module, dataset: Dataset, config: TrainingConfig) -> Iterator[None]:
    """One step after the other, for ever."""
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    optimizer = build_optimizer(model, config)
    loader = DataLoader(dataset, config.batch_size, shuffle=True, drop_last=True, num_workers=config.num_workers)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    model.train()
    while True:
        for images, labels in loader:
            with accelerator.autocast():
                loss = nn.functional.cross_entropy(model(images), labels, label_smoothing=config.label_smoothing)
            loss = loss + moezoo.aux_loss(model)
            optimizer.zero_grad()
            accelerator.backward(loss)
            if config.grad_clip is not None:
                accelerator.clip_grad_norm_(model.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
            loss.item()
            yield


def by_moezoo(model: nn.Module, splits: Splits, config: TrainingConfig, folder: str) -> Iterator[None]:
    """The same by our loop."""
    with ExitStack() as stack:
        run = stack.enter_context(open_run(folder))
        stack.enter_context(seeded(config.seed))
        stack.enter_context(run_modes(model, config))
        signals = stack.enter_context(StopSignals())
        parts = build_parts(model, splits, config, make_accelerator(config), stack)
        keeper = Keeper(parts, run)
        keeper.begin()
        course = Course(parts, keeper, signals, Silent())
        epoch = 0
        while True:
            epoch += 1
            training_mode(model)
            begin = time.perf_counter()
            for batches, position in parts.reader.steps(epoch, 0):
                begin = course._step(batches, position, begin)
                yield


def timed(side: Iterator[None], steps: int) -> tuple[float, float]:
    """Medians over ``steps`` steps of the time on the wall and of the processor's."""
    walls, cpus = [], []
    for _ in range(steps):
        wall, cpu = time.perf_counter(), time.process_time()
        next(side)
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return statistics.median(walls), statistics.median(cpus)


def compare(seconds: dict[str, list[float]], prefix: str) -> dict[str, Any]:
    """Medians of both sides and the ratio of ours to the other, turn by turn."""
    ratios = [a / b for a, b in zip(seconds["moezoo"], seconds["by hand"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    medians = {name: round(1000 * statistics.median(values), 3) for name, values in seconds.items()}
    return {f"{prefix}ms": medians, f"{prefix}ratio": middle, f"{prefix}ratio_quartiles": [low, high]}


def main(
    model: Annotated[str, typer.Option(help="model name")] = "entity_moe/vit_tiny",
    batch_size: Annotated[int, typer.Option(help="images per step")] = 8,
    rounds: Annotated[int, typer.Option(help="turns of each side")] = 30,
    turn: Annotated[int, typer.Option(help="steps of a turn; its median counts")] = 3,
    device: Annotated[str, typer.Option()] = "cpu",
    precision: Annotated[str, typer.Option()] = "no",
    workers: Annotated[int, typer.Option()] = 0,
    out: Annotated[Path | None, typer.Option(help="JSON file")] = None,
) -> None:
    """Print and write the ratio of the two, median and quartiles over the rounds."""
    config = TrainingConfig(
        epochs=10**6, batch_size=batch_size, device=device, mixed_precision=precision,  # type: ignore[arg-type]
        num_workers=workers, warmup_epochs=0.0, keep_checkpoints=0,
    )  # fmt: skip
    with seeded(0):
        ours, theirs = (moezoo.create_model(model, num_classes=10) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    size = ours.pretrained_cfg["input_size"]
    images = ImageTensors(torch.randn(20 * batch_size, *size), torch.arange(20 * batch_size) % 10)
    splits = Splits("noise", images, images, images, tuple("abcdefghij"), (0.5,) * size[0], (0.5,) * size[0])
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "by hand": by_hand(theirs, images, config),
            "moezoo": by_moezoo(ours, splits, config, folder),
        }
        for side in sides.values():
            for _ in range(3):
                next(side)
        turns: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in list(sides) if number % 2 else reversed(sides):
                turns[name].append(timed(sides[name], turn))
        for side in sides.values():
            side.close()  # type: ignore[attr-defined]
    result = {
        "model": model,
        "batch_size": batch_size,
        "device": device,
        "precision": precision,
        "workers": workers,
        "rounds": rounds,
        **compare({name: [wall for wall, _ in values] for name, values in turns.items()}, ""),
        **compare({name: [cpu for _, cpu in values] for name, values in turns.items()}, "cpu_"),
        "machine": dataclasses.asdict(machine(config.device)),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out is not None:
        out.write_text(text + "\n")


if __name__ == "__main__":
    typer.run(main)
