"""Fixtures for conftests and test modules that compute with one thread; importing one is using it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Inside, torch computes with one thread: results do not hang on the machine, and processes not on each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Every test and every fixture of the module."""
    with on_one_thread():
        yield


@pytest.fixture(autouse=True)
def seeded_on_one_thread():
    """Every test by itself, with torch's generator seeded."""
    with on_one_thread():
        torch.manual_seed(0)
        yield
