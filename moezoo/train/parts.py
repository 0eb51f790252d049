"""What a run is made of, built once in the only right order."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import nn

from moezoo.data import Splits
from moezoo.train.augment import build_mixer
from moezoo.train.bad_files import BadFiles
from moezoo.train.config import TrainingConfig
from moezoo.train.health import RoutingMeter
from moezoo.train.nonfinite import Refusals
from moezoo.train.optim import build_optimizer
from moezoo.train.parallel import Parallel, make_parallel
from moezoo.train.reader import Reader
from moezoo.train.schedule import Schedule, build_schedule
from moezoo.train.seeding import mix, seed_all
from moezoo.train.step import Stepper


@dataclass(frozen=True)
class Parts:
    """The parts that do not change while a run goes on."""

    model: nn.Module
    splits: Splits
    config: TrainingConfig
    parallel: Parallel
    reader: Reader
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    stepper: Stepper
    meter: RoutingMeter
    refusals: Refusals
    bad_files: BadFiles


def build_parts(
    model: nn.Module, splits: Splits, config: TrainingConfig, accelerator: Accelerator, stack: ExitStack
) -> Parts:
    """Place and spread the model, then build what depends on its parameters. ``stack`` takes them apart again."""
    parallel = make_parallel(config, accelerator)
    model.to(parallel.device)
    module = parallel.prepare(model)
    meter = RoutingMeter(model, parallel.device)
    stack.callback(meter.close)
    reader = Reader(splits.train, splits.num_classes, model, config, parallel)
    stack.callback(reader.close)
    optimizer = build_optimizer(model, config)
    if parallel.rank:  # dropout and noise of the processes differ; the first one's are those of a single process
        seed_all(mix(config.seed, 0, parallel.rank))
    stepper = Stepper(
        model,
        module,
        optimizer,
        parallel,
        meter,
        autocast=accelerator.autocast,
        scaler=accelerator.scaler,
        mixer=build_mixer(config, splits.num_classes),
        label_smoothing=config.label_smoothing,
        grad_clip=config.grad_clip,
        no_images=splits.val[0][0][None][:0] if parallel.world > 1 else None,
        keep_buffers=config.on_nonfinite == "skip",
    )
    return Parts(
        model=model,
        splits=splits,
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
