"""Tests of what a GPU does otherwise; without one they are skipped before they import anything.

``MOEZOO_TEST_DEVICE=cpu`` runs them on the CPU, so that they can be written where there is no GPU.
"""

from __future__ import annotations

import copy
import os
import sys
import traceback
from pathlib import Path

import pytest
import torch

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / folder) for folder in ("moe", "contract", "train")]  # their cases and toys

DEVICE = os.environ.get("MOEZOO_TEST_DEVICE", "cuda")
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # some tests ask torch for determinism themselves


class NoDevice(pytest.Module):
    """A file of tests that is passed over unread."""

    def collect(self):
        raise pytest.skip.Exception("needs a GPU, or MOEZOO_TEST_DEVICE=cpu", allow_module_level=True)


def pytest_pycollect_makemodule(module_path, parent):
    if DEVICE == "cuda" and not torch.cuda.is_available():
        return NoDevice.from_parent(parent, path=module_path)
    module = pytest.Module.from_parent(parent, path=module_path)
    module.add_marker("gpu")
    return module


@pytest.fixture(scope="session")
def device():
    return torch.device(DEVICE)


@pytest.fixture
def only_cuda(device):
    """For what has no meaning elsewhere."""
    if device.type != "cuda":
        pytest.skip("is about CUDA")


@pytest.fixture(autouse=True)
def _seeded():
    """The same numbers in every test, and float32 products in float32."""
    assert torch.get_float32_matmul_precision() == "highest"
    convolutions = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    yield
    torch.backends.cudnn.allow_tf32 = convolutions


@pytest.fixture(autouse=True)
def _device_that_answers(device):
    """A process whose device has failed can test nothing more: beside others it ends, and is replaced by a new one."""
    yield
    if device.type == "cuda":
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            if "PYTEST_XDIST_WORKER" in os.environ:
                traceback.print_exc(file=sys.__stderr__)
                os._exit(1)
            raise


@pytest.fixture(scope="session")
def on_both(device):
    """A module in float64 on the CPU and a copy of it in another type on the device, with the same weights."""

    def pair(module, dtype=torch.float32):
        module = module.to(dtype).double()
        return module, copy.deepcopy(module).to(dtype).to(device)

    return pair
