"""Rounded sizes in files of ``torch.export.save``: the numbers that Python gives."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from moezoo.export import to_pt2

SHARES = (0.5, 0.375, -0.5 / 64)


class Sized(nn.Module):
    """As many zeros as shares of the batch, rounded; 3 more, since sizes of 0 and 1 are never dynamic."""

    def __init__(self, rounding):
        super().__init__()
        self.rounding = rounding

    def forward(self, x):
        return [x.new_zeros(self.rounding(x.shape[0] * share) + 3) for share in SHARES]


@pytest.mark.parametrize("rounding", [math.ceil, math.floor, round])
def test_every_size_is_rounded_as_python_does(rounding, tmp_path):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(Sized(rounding), (torch.zeros(7, 1),), dynamic_shapes=({0: batch},))
    to_pt2.write(program, tmp_path / "sized.pt2", None)
    run = to_pt2.load(tmp_path / "sized.pt2")
    for size in range(2, 65):
        assert [len(zeros) - 3 for zeros in run(torch.zeros(size, 1))] == [rounding(size * share) for share in SHARES]
