"""From the configuration's device and precision to torch's and accelerate's."""

from __future__ import annotations

import os
import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from moezoo.errors import ConfigError
from moezoo.train.config import TrainingConfig
from moezoo.train.parallel import process_group_settings


def find_device(name: str) -> torch.device:
    """The device called ``name``: ``auto``, ``cpu``, ``cuda`` or ``mps``.

    Raises:
        ConfigError: It is not on this machine; the message says what is.
    """
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next((kind for kind in ("cuda", "mps") if found[kind]), "cpu"))
    if not found.get(name, False):
        here = ", ".join(kind for kind, there in found.items() if there)
        raise ConfigError(f"device={name!r} is not on this machine. Here: auto, {here}.")
    return torch.device(name)


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """An accelerator for one run.

    Raises:
        ConfigError: The device is not there, or cannot compute in the precision asked for.
    """
    device = find_device(config.device)
    if config.mixed_precision == "fp16" and device.type == "cpu":
        raise ConfigError("mixed_precision='fp16' needs a GPU: on the CPU take 'bf16' or 'no'.")
    # accelerate keeps its first settings for the whole process; a second run may have others.
    AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=config.mixed_precision,
        kwargs_handlers=[process_group_settings(config)],
    )


def is_main_process() -> bool:
    """Whether this process writes files: always, but under ``torchrun`` only in one of them."""
    joined = dist.is_available() and dist.is_initialized()
    return (dist.get_rank() if joined else int(os.environ.get("RANK", 0))) == 0


def leave_processes() -> None:
    """Say farewell to the other processes, where there are some; the main one goes on alone, any other ends here.

    The others end without the interpreter's teardown: a thread of the transport may still be letting go of its last
    tensor, for which it waits for the interpreter's lock, and being refused that during a teardown aborts the whole
    process, long after its work was done.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    main = is_main_process()
    dist.destroy_process_group()
    if not main:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
