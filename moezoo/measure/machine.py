"""On what machine something was measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Machine:
    """What every published figure must name."""

    processor: str
    """Model of the GPU where the work ran on one, else of the CPU."""
    cores: int
    """CPU cores this process may use."""
    threads: int
    """Threads torch uses inside an operator."""
    torch: str
    """Version of torch."""


def machine(device: torch.device | str = "cpu") -> Machine:
    """Describe the machine as seen by a measurement on ``device``."""
    device = torch.device(device)
    return Machine(
        processor=torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        torch=torch.__version__,
    )


def _cpu_model() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name" and value.strip():
                return value.strip()
    return platform.processor() or platform.machine()
