"""The GPU kernels are right: Triton interprets them on a CPU, which it has to be told before it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moezoo.moe import MoELayer, kernels

CASES = Path(__file__).with_name("gpu_kernel_cases.py")


def test_kernels_interpreted_on_a_cpu_give_what_float64_gives():
    pytest.importorskip("triton", reason="Triton comes with torch's wheels for Linux only")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(CASES)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def test_without_a_gpu_the_path_is_plain_operations():
    assert not kernels.usable(torch.ones(2, 2))
    layer = MoELayer(8, num_experts=3, top_k=2)
    x = torch.randn(9, 8)
    expected = layer(x)
    layer.path = "triton"
    torch.testing.assert_close(layer(x), expected)


def test_what_a_kernel_was_compiled_for_is_told_by_types_alignment_and_numbers():
    pytest.importorskip("triton", reason="Triton comes with torch's wheels for Linux only")
    from moezoo.moe.kernels.launch import facts
    from moezoo.moe.kernels.sums import _tile_sums

    flat = torch.zeros(65)
    x, sums, offsets = flat[:64].view(8, 8), torch.zeros(4, 8), torch.zeros(2, dtype=torch.int32)

    def of(x=x, N=8, E=2, columns=128, **options):
        return facts(_tile_sums, (x, sums, offsets, N, E, 8, 32, columns, 4), options)

    assert of() == of(N=1) == of(N=16)  # which it is not specialized for
    others = [of(x=flat[1:].view(8, 8)), of(x=x.bfloat16()), of(E=1), of(columns=64), of(num_warps=8)]
    assert len({of(), *others}) == 6


def test_a_kernel_is_looked_at_by_triton_once():
    from moezoo.moe.kernels import launch

    calls = []

    class Kernel:
        params = ()

        def __getitem__(self, grid):
            return lambda *args, **options: calls.append(("triton", grid, options)) or Compiled()

    class Compiled:
        def __getitem__(self, grid):
            return lambda *args: calls.append(("at once", grid, args))

    kernel, x = Kernel(), torch.ones(2)
    for _ in range(2):
        launch._launch(kernel, (3,), (x, 5), {"num_warps": 4})
    assert calls == [("triton", (3,), {"num_warps": 4}), ("at once", (3, 1, 1), (x, 5))]
