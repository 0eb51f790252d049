"""What a run is made of, built once in the only right order."""

from __future__ import annotations

import contextlib
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from moezoo.errors import MoeZooError
from moezoo.eval.answers import placed
from moezoo.measure.image_cost import ImageCost, image_cost, may_vary
from moezoo.train.bad_files import BadFiles
from moezoo.train.config import TrainingConfig
from moezoo.train.health import RoutingMeter
from moezoo.train.nonfinite import Refusals
from moezoo.train.optim import build_optimizer
from moezoo.train.parallel import Parallel, make_parallel
from moezoo.train.reader import Reader
from moezoo.train.schedule import Schedule, build_schedule
from moezoo.train.seeding import mix, restored_host, seed_all
from moezoo.train.step import Stepper
from moezoo.train.tasks import AnySplits, Task, task_of


@dataclass(frozen=True)
class Parts:
    """The parts that do not change while a run goes on."""

    model: nn.Module
    splits: AnySplits
    task: Task
    config: TrainingConfig
    parallel: Parallel
    reader: Reader
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    stepper: Stepper
    meter: RoutingMeter
    refusals: Refusals
    bad_files: BadFiles

    @property
    def judged_on(self) -> str:
        """The part by which epochs are judged: ``"val"``, or ``"test"`` where there is no such part."""
        return judged_on(self.splits)


def judged_on(splits: AnySplits) -> str:
    """As :attr:`Parts.judged_on`."""
    return "val" if splits.val is not None else "test"


def build_parts(
    model: nn.Module, splits: AnySplits, config: TrainingConfig, accelerator: Accelerator, stack: ExitStack
) -> Parts:
    """Place and spread the model, then build what depends on its parameters. ``stack`` takes them apart again."""
    parallel = make_parallel(config, accelerator)
    task = task_of(model, splits, config)
    model.to(parallel.device)
    cost = _cost(model, task, splits)
    module = parallel.prepare(model, unused=task.leaves_parameters_out)
    meter = RoutingMeter(model, parallel.device, cost)
    stack.callback(meter.close)
    reader = Reader(splits.train, task, model, config, parallel)
    stack.callback(reader.close)
    optimizer = build_optimizer(model, config)
    if parallel.rank:  # dropout and noise of the processes differ; the first one's are those of a single process
        seed_all(mix(config.seed, 0, parallel.rank))
    stepper = Stepper(
        model,
        module,
        task,
        optimizer,
        parallel,
        meter,
        autocast=accelerator.autocast,
        scaler=accelerator.scaler,
        grad_clip=config.grad_clip,
        nothing=task.empty(getattr(splits, judged_on(splits)), held_out=False) if parallel.world > 1 else None,
        keep_buffers=config.on_nonfinite == "skip",
    )
    return Parts(
        model=model,
        splits=splits,
        task=task,
        config=config,
        parallel=parallel,
        reader=reader,
        optimizer=optimizer,
        schedule=build_schedule(config, reader.steps_per_epoch),
        stepper=stepper,
        meter=meter,
        refusals=Refusals(config, splits.train),
        bad_files=BadFiles(config.max_bad_files),
    )


def _cost(model: nn.Module, task: Task, splits: AnySplits) -> ImageCost | None:
    """Counted before the model is wrapped. A compiled one cannot be, and logs no FLOPs."""
    if not may_vary(model) or len(part := getattr(splits, judged_on(splits))) == 0:
        return None
    with contextlib.suppress(MoeZooError), restored_host():
        return image_cost(model, placed(model, task.held_out([part[0]])[0]))
    return None
