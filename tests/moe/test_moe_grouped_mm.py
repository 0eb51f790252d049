"""The grouped product: torch's own, and moezoo's stand-in where torch's cannot be traced."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from moezoo.moe import MoELayer
from moezoo.moe.flops import FLOP_FORMULAS
from moezoo.moe.paths.grouped_mm import _product, aligned, grouped_mm

COUNTS = [3, 0, 5, 1]


def inputs(dtype=torch.float64, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(11, 8, dtype=torch.float64, generator=generator).to(device, dtype).requires_grad_()
    weight = torch.randn(4, 16, 8, dtype=torch.float64, generator=generator).to(device, dtype).requires_grad_()
    return x, weight, torch.tensor(COUNTS, device=device).cumsum(0).to(torch.int32)


def reference(x, weight):
    return torch.cat([rows @ w.t() for rows, w in zip(x[: sum(COUNTS)].split(COUNTS), weight, strict=True)])


@pytest.mark.parametrize("product", [grouped_mm, _product])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 5e-2)])
def test_values_and_gradients_are_those_of_a_product_per_expert(product, dtype, close):
    x, weight, offsets = inputs(dtype)
    want_x, want_weight, _ = inputs()
    want = reference(want_x, want_weight)
    out = product(x, weight.transpose(-2, -1), offsets)[: sum(COUNTS)]
    torch.testing.assert_close(out.double(), want, rtol=close, atol=close)
    out.sum().backward()
    want.sum().backward()
    rows = slice(sum(COUNTS))
    torch.testing.assert_close(x.grad[rows].double(), want_x.grad[rows], rtol=close, atol=close)
    torch.testing.assert_close(weight.grad.double(), want_weight.grad, rtol=close, atol=close)
    assert not weight.grad[1].any()  # an expert without rows: zeros, not None


def test_the_stand_in_passes_torchs_own_operator_checks():
    x, weight, offsets = inputs()
    offsets = torch.tensor([3, 3, 8, 11], dtype=torch.int32)  # every row in use: the rest would be undefined
    torch.library.opcheck(_product, (x, weight.transpose(-2, -1), offsets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_shapes_are_known_without_values(dtype):
    x, weight, offsets = inputs(dtype, "meta")
    assert grouped_mm(x, weight.transpose(-2, -1), offsets).shape == (11, 16)


def test_the_stand_in_counts_the_rows_it_computes():
    x, weight, offsets = inputs()
    with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
        out = grouped_mm(x, weight.transpose(-2, -1), offsets)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * sum(COUNTS) * 8 * 16
    assert counter.get_total_flops() == 3 * forward


def test_weights_that_begin_anywhere_in_a_flat_buffer_are_taken(monkeypatch):
    layer = MoELayer(8, num_experts=3, top_k=2, hidden_dim=16, path="grouped").to(torch.bfloat16)
    x = torch.randn(9, 8).bfloat16()
    expected = layer(x)
    weight = layer.experts.w_in
    flat = torch.empty(weight.numel() + 1, dtype=torch.bfloat16)
    layer.experts.w_in = torch.nn.Parameter(flat[1:].view(weight.shape).copy_(weight.detach()))
    assert not aligned(layer.experts.w_in)
    given = []
    real = F.grouped_mm
    monkeypatch.setattr(F, "grouped_mm", lambda a, b, *, offs: given.append(b) or real(a, b, offs=offs))
    torch.testing.assert_close(layer(x), expected)
    assert [aligned(b) for b in given] == [True, True]
