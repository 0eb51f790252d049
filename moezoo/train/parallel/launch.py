"""How the processes of a run come to be: ``torchrun`` starts them, accelerate joins them."""

from __future__ import annotations

import os
from datetime import timedelta

from accelerate.utils import InitProcessGroupKwargs

from moezoo.errors import DistributedError
from moezoo.train.config import TrainingConfig


def process_group_settings(config: TrainingConfig) -> InitProcessGroupKwargs:
    """For ``Accelerator(kwargs_handlers=[…])``: no process waits for another longer than ``config.dist_timeout``."""
    return InitProcessGroupKwargs(timeout=timedelta(seconds=config.dist_timeout))


def check_launch() -> None:
    """Notice that ``accelerate launch`` was asked for several processes and started one, as it does on a CPU.

    Raises:
        DistributedError: It did; the text says what to call instead.
    """
    # Its launcher of a single process names a meeting point only where more than one process was asked for.
    alone = "ACCELERATE_MIXED_PRECISION" in os.environ and "WORLD_SIZE" not in os.environ
    if alone and "MASTER_ADDR" in os.environ:
        raise DistributedError(
            "accelerate launch was asked for several processes and started only this one, as it does on a CPU. Start "
            "them with: torchrun --nproc-per-node 2 -m moezoo train … (or ask accelerate for one: --num_processes 1)."
        )
