"""Bytes alive and bytes saved, against hand calculations."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moezoo.measure import Memory, memory
from moezoo.moe import MoELayer, aux_loss

KB = 1024


class Steps(nn.Module):
    """Holds two intermediate results of 4 KiB at once, never three."""

    def forward(self, x):
        x = x + 1
        x = x + 1
        return x + 1


def test_the_peak_is_what_is_alive_at_the_worst_moment():
    result = memory(Steps(), torch.zeros(KB))
    assert isinstance(result, Memory)
    assert result.peak == 3 * 4 * KB  # the input and two results
    assert result.weights == 0


def test_views_and_in_place_operations_take_no_memory():
    class Views(nn.Module):
        def forward(self, x):
            return x.view(2, -1).t()[1:].add_(0)

    assert memory(Views(), torch.zeros(KB)).peak == 4 * KB


def test_weights_and_buffers_are_in_the_peak_once():
    net = nn.Sequential(nn.Linear(256, 256, bias=False), nn.BatchNorm1d(256))
    net.append(net[0])
    expected = 4 * (256 * 256 + 4 * 256) + 8
    result = memory(net, torch.zeros(4, 256))
    assert result.weights == expected
    assert expected + 2 * 4 * KB <= result.peak <= expected + 4 * 4 * KB


def test_each_saved_storage_counts_once_and_parameters_do_not():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(KB))

        def forward(self, x):
            return x * self.w + x * self.w * 2 + x.view(2, -1).flatten() * self.w  # saves x, thrice, and w

    assert memory(Net(), torch.zeros(KB)).saved_for_backward == 4 * KB


def test_saved_bytes_follow_autograd():
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 32))
    x = torch.zeros(16, 64)
    assert memory(net, x).saved_for_backward == 4 * 16 * (64 + 128)  # input, and what the ReLU returned
    for p in net.parameters():
        p.requires_grad_(False)
    assert memory(net, x).saved_for_backward == 0


def test_checkpointing_saves_less():
    class Net(nn.Module):
        def __init__(self, save):
            super().__init__()
            self.save = save
            self.body = nn.Sequential(*[nn.Sequential(nn.Linear(64, 64), nn.GELU()) for _ in range(4)])

        def forward(self, x):
            return checkpoint(self.body, x, use_reentrant=False) if self.save else self.body(x)

    x = torch.zeros(16, 64)
    assert memory(Net(True), x).saved_for_backward == 4 * 16 * 64
    assert memory(Net(False), x).saved_for_backward == 8 * 4 * 16 * 64


def test_idle_experts_cost_weights_but_no_activations():
    x = torch.randn(32, 16)
    few, many = (memory(MoELayer(16, num_experts=n, top_k=1, path="loop"), x) for n in (2, 16))
    assert many.weights > 7 * few.weights
    assert many.peak - many.weights < 1.5 * (few.peak - few.weights), "only the router's logits grow"


def test_half_precision_takes_half():
    vit = timm.create_model("test_vit", num_classes=10)
    x = torch.randn(2, *vit.default_cfg["input_size"])
    single = memory(vit, x)
    half = memory(vit.bfloat16(), x)
    assert half.weights == single.weights // 2
    assert half.peak < 0.6 * single.peak
    assert 0 < half.saved_for_backward < 0.6 * single.saved_for_backward


def test_a_meta_model_is_measured_without_memory():
    with torch.device("meta"):
        net = nn.Sequential(nn.Linear(2**14, 2**14), nn.ReLU(), nn.Linear(2**14, 2**14))
    result = memory(net, torch.zeros(1, 2**14))
    assert result.weights == 4 * 2 * (2**28 + 2**14)
    assert result.peak > result.weights
    assert result.saved_for_backward == 4 * 2 * 2**14


def test_the_model_is_as_before():
    net = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), MoELayer(8, num_experts=4))
    net[0].eval()
    x = torch.randn(6, 8)
    net(x)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    loss, rng = aux_loss(net).item(), torch.get_rng_state()
    memory(net, x)
    assert not net[0].training
    assert net[1].training
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert aux_loss(net).item() == loss
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_peak_is_the_allocators():
    net = nn.Linear(1024, 1024, bias=False).cuda()
    result = memory(net, torch.zeros(1024, 1024))
    assert result.weights == 4 * KB * KB
    assert result.peak >= 3 * 4 * KB * KB
