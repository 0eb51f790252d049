"""Windows of tokens on their grid."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from moezoo.errors import ConfigError, InputError
from moezoo.models.multiscale_moe import ScaleWindows
from moezoo.models.multiscale_moe.windows import clipped_windows


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def by_hand(windows, tokens, grid, mode):
    """Loops over windows in float64, from their definition."""
    plane = grid if mode == "2d" else (1, grid[0] * grid[1])
    maps = tokens.double().numpy().reshape(len(tokens), *plane, -1)
    found = []
    for (down, across), norm in zip(windows.windows, windows.norms, strict=True):
        gain, shift = (p.detach().double().numpy() for p in (norm.weight, norm.bias))
        total, count = 0.0, 0
        for top in range(0, plane[0], down):
            for left in range(0, plane[1], across):
                mean = maps[:, top : top + down, left : left + across].mean((1, 2))
                centred = mean - mean.mean(-1, keepdims=True)
                total = total + gelu(centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps) * gain + shift)
                count += 1
        found.append(total / count)
    return found


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 6),
    mode=st.sampled_from(["2d", "1d"]),
    scales=st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
)
def test_means_over_windows_are_those_of_a_loop_over_any_grid(rows, columns, mode, scales):
    grid = (rows, columns)
    try:
        windows = ScaleWindows(5, scales, grid, mode=mode)
    except ConfigError:
        sides = grid if mode == "2d" else (1, rows * columns)
        clipped = [tuple(min(scale, side) for side in sides) for scale in scales]
        assert len(set(clipped)) < len(clipped)
        return
    for norm in windows.norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    tokens = torch.randn(2, rows * columns, 5, generator=torch.Generator().manual_seed(rows * 10 + columns))
    for got, want in zip(windows(tokens), by_hand(windows, tokens, grid, mode), strict=True):
        torch.testing.assert_close(got.double(), torch.from_numpy(want), rtol=1e-4, atol=1e-5)


def test_windows_are_square_on_the_grid_and_do_not_depend_on_the_order_of_reading():
    """Turning the grid turns the windows; a run of tokens along rows is another one along columns."""
    tokens = torch.randn(2, 16 * 8, 6)
    turned = tokens.unflatten(1, (16, 8)).transpose(1, 2).flatten(1, 2)
    for mode, same in (("2d", True), ("1d", False)):
        upright = ScaleWindows(6, (4, 8), (16, 8), mode=mode)(tokens)
        lying = ScaleWindows(6, (4, 8), (8, 16), mode=mode)(turned)
        assert all(torch.allclose(a, b, atol=1e-5) == same for a, b in zip(upright, lying, strict=True))


def test_scales_differ_and_a_fine_pattern_is_seen_by_the_small_window_alone():
    """Stripes from token to token: a large window averages them away."""
    windows = ScaleWindows(4, (1, 8), (8, 8))
    plain = torch.ones(1, 64, 4) * torch.tensor([1.0, -1.0, 2.0, -2.0])
    stripes = plain + 3 * torch.tensor([1.0, -1.0]).repeat(32)[None, :, None] * torch.tensor([1.0, 1.0, -1.0, -1.0])
    (fine, coarse), (fine_striped, coarse_striped) = windows(plain), windows(stripes)
    assert (fine - fine_striped).abs().max() > 0.1
    torch.testing.assert_close(coarse, coarse_striped)


@pytest.mark.parametrize("op", ["depthwise", "conv"])
def test_convolutions_of_windows_cut_off_by_the_border_count_the_tokens_they_have(op):
    windows = ScaleWindows(3, (2, 4), (5, 7), op=op)
    means = ScaleWindows(3, (2, 4), (5, 7))
    for embed, (down, across) in zip(windows.embed, windows.windows, strict=True):
        conv = embed.conv if op == "conv" else embed.spatial.conv
        weight = torch.eye(3)[:, :, None, None] if op == "conv" else torch.ones(3, 1, 1, 1)
        conv.weight.data = weight.expand(-1, -1, down, across).contiguous() / (down * across)
        if op == "depthwise":
            embed.channels.weight.data = torch.eye(3)
    tokens = torch.randn(2, 35, 3)
    for got, want in zip(windows(tokens), means(tokens), strict=True):
        torch.testing.assert_close(got, want)


def test_parameters_of_each_operation_are_what_the_documents_say():
    """Full convolutions in runs of tokens cost the document's 7.3 M; depthwise ones a ninth, means nearly nothing."""

    def count(**options):
        with torch.device("meta"):
            return sum(p.numel() for p in ScaleWindows(512, (4, 8, 16), (16, 8), **options).parameters())

    norms = 3 * 2 * 512
    assert count(op="pool") == norms
    assert count(op="conv", mode="1d") == 512 * 512 * (4 + 8 + 16) + norms == 7_343_104
    assert count(op="conv") == 512 * 512 * (16 + 64 + 128) + norms
    assert count(op="depthwise") == 512 * (16 + 64 + 128) + 3 * 512 * 512 + norms == 896_000
    assert count(op="depthwise", mode="1d") == 512 * (4 + 8 + 16) + 3 * 512 * 512 + norms


def test_scales_that_the_grid_cuts_down_to_one_window_are_told():
    assert clipped_windows((4, 8, 16, 99)[:3], (16, 8)) == [(4, 4), (8, 8), (16, 8)]
    assert clipped_windows((3, 64), (2, 2), "1d") == [(1, 3), (1, 4)]
    with pytest.raises(
        ConfigError, match=r"scales=\[4, 16, 32, 64\].* 16 x 8 tokens.*16, 32, 64 all have windows of 16 x 8"
    ):
        ScaleWindows(8, (4, 16, 32, 64), (16, 8))
    with pytest.raises(InputError, match=r"\(batch, 128, 8\), those of a grid of 16 x 8, got \(2, 127, 8\)"):
        ScaleWindows(8, (4,), (16, 8))(torch.randn(2, 127, 8))
    with pytest.raises(InputError, match=r"got \(2, 128, 9\)"):
        ScaleWindows(8, (4,), (16, 8))(torch.randn(2, 128, 9))
    for wrong, told in (({"op": "pol"}, "op='pol'.*Did you mean: pool"), ({"mode": "3d"}, "mode='3d'.*Did you mean")):
        with pytest.raises(ConfigError, match=told):
            ScaleWindows(8, (4,), (16, 8), **wrong)
    with pytest.raises(ConfigError, match="scales"):
        ScaleWindows(8, (), (16, 8))
