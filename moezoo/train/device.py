"""From the configuration's device and precision to an ``accelerate.Accelerator``."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from moezoo.errors import ConfigError
from moezoo.train.config import TrainingConfig


def make_accelerator(config: TrainingConfig) -> Accelerator:
    """An accelerator for this run.

    Raises:
        ConfigError: The device is not there, or cannot compute in the precision asked for.
    """
    found = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not found.get(config.device, True):
        here = ", ".join(name for name, there in found.items() if there)
        raise ConfigError(f"device={config.device!r} is not on this machine. Here: auto, {here}.")
    # accelerate keeps its first settings for the whole process; a second run may have others.
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.mixed_precision)
    if config.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise ConfigError("mixed_precision='fp16' needs a GPU: on the CPU take 'bf16' or 'no'.")
    return accelerator
