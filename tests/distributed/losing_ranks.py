"""What the ranks of the tests do when one of them is lost."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace

import torch
import torch.distributed as dist
from spread_training import DIM, TOKENS, Case, _Here

from moezoo.errors import DistributedError
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel import lost_processes, make_parallel


def lose(how: str, parallel: str, expert_parallel: int, patience: float) -> tuple[str, float]:
    """The last rank is lost in the third step; what the others then see, and after how many seconds."""
    config = replace(TrainingConfig(), parallel=parallel, expert_parallel=expert_parallel, dist_timeout=patience)
    spread = make_parallel(config, _Here())  # type: ignore[arg-type]
    model = Case().model()
    module = spread.prepare(model)
    for step in range(5):
        begin = time.monotonic()
        if step == 2 and spread.rank == spread.world - 1:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(600)
        try:
            with lost_processes(), spread.accumulate(module, last=True):
                module(torch.ones(2, TOKENS, DIM, dtype=torch.float64)).sum().backward()
                spread.finish_backward(model)
                spread.any(False)
        except DistributedError as error:
            return str(error), time.monotonic() - begin
    raise AssertionError(f"rank {dist.get_rank()} noticed nothing")
