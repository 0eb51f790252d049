"""One seed for everything random, without disturbing the caller's generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mix(*numbers: int) -> int:
    """One 64-bit seed out of several numbers; neighbours give seeds that have nothing to do with each other."""
    value = 0x9E3779B97F4A7C15
    for number in numbers:  # the finaliser of splitmix64 after each
        value = (value + number * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value


def seed_host(seed: int) -> None:
    """Start python's, numpy's and torch's CPU generator from ``seed``; those of accelerators are left alone."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int) -> None:
    """As :func:`seed_host`, with those of accelerators."""
    seed_host(seed)
    torch.manual_seed(seed)


@contextmanager
def restored_host() -> Iterator[None]:
    """Whatever happens to the three generators of :func:`seed_host` inside is undone."""
    python, numpy, torch_ = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_)


@contextmanager
def restored() -> Iterator[None]:
    """As :func:`restored_host`, with the accelerator's generator."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with restored_host(), torch.random.fork_rng(devices):
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Every generator starts from ``seed``; afterwards they are as they were."""
    with restored():
        seed_all(seed)
        yield
