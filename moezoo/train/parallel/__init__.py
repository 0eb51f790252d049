"""One training run in many processes: who is who, how the model is spread, and what happens when one is lost."""

from __future__ import annotations

from accelerate import Accelerator

from moezoo.errors import ConfigError
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel.base import Parallel
from moezoo.train.parallel.ddp import Replicated
from moezoo.train.parallel.fsdp import Sharded
from moezoo.train.parallel.launch import check_launch, process_group_settings
from moezoo.train.parallel.lost import lost_processes
from moezoo.train.parallel.meshes import check_expert_parallel
from moezoo.train.parallel.unshard import own_type

STRATEGIES = {"ddp": Replicated, "fsdp": Sharded}


def make_parallel(config: TrainingConfig, accelerator: Accelerator) -> Parallel:
    """How this process takes part in the run, by ``config.parallel`` and ``config.expert_parallel``.

    Raises:
        ConfigError: ``expert_parallel`` does not divide the number of processes, or the precision does not go with it.
        DistributedError: Several processes were asked for and one was started.
    """
    check_launch()
    check_expert_parallel(config.expert_parallel, accelerator.num_processes)
    if accelerator.num_processes == 1:
        return Parallel(config, accelerator.device)
    if config.mixed_precision == "fp16" and (config.parallel == "fsdp" or config.expert_parallel > 1):
        raise ConfigError(
            "mixed_precision='fp16' does not go with parallel='fsdp' or expert_parallel above 1, where no process sees "
            "all the gradients that its scale must fit: take 'bf16' or 'no'."
        )
    return STRATEGIES[config.parallel](config, accelerator.device)


__all__ = ["Parallel", "check_launch", "lost_processes", "make_parallel", "own_type", "process_group_settings"]
