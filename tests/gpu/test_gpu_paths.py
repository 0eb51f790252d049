"""Every way of computing the experts on a GPU: near to float64, the same twice, and without waiting for the device."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from comparing import assert_near, results

import moezoo
from moezoo.errors import ConfigError
from moezoo.moe import MoELayer
from moezoo.moe.paths import RUN

PATHS = [path for path in RUN if path != "native"]
FREE = [path for path in PATHS if path in ("grouped", "static")]
LIMITS = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 3e-3}
"""Of the norm of each output and gradient."""
KINDS = {
    "mlp": {"num_experts": 6, "top_k": 2},
    "glu": {"num_experts": 6, "top_k": 2, "expert": "glu", "activation": "silu"},
    "three of many": {"num_experts": 24, "top_k": 3},
    "dropping": {"num_experts": 4, "top_k": 2, "capacity_factor": 0.6, "activation": "quick_gelu"},
    "shared": {"num_experts": 4, "top_k": 1, "num_shared_experts": 1, "activation": "gelu_tanh"},
    "all": {"num_experts": 3, "top_k": 3, "router": "dense_softmax"},
    "slots": {"num_experts": 4, "top_k": 1, "router": "soft"},
    "varying": {"num_experts": 4, "top_k": 4, "router": "top_p", "router_args": {"p": 0.6}},
}
SIZES = {"even": (64, 96), "odd": (37, 51)}


def made(path="auto", width=SIZES["even"], **args):
    layer = MoELayer(width[0], path=path, hidden_dim=width[1], **{**KINDS["mlp"], **args})
    with torch.no_grad():
        layer.experts.b_in.normal_(std=0.3)
        layer.experts.b_out.normal_(std=0.3)
        for name, p in layer.router.named_parameters():
            if "weight" in name or "phi" in name:
                p.normal_(std=1.0)  # spread, so that rounding changes no decision
    return layer


def tokens(device, *shape, dtype=torch.float32):
    """Numbers that are the same in every type."""
    return torch.randn(*shape).bfloat16().to(device, dtype)


@pytest.mark.parametrize("how", ["float32", "bfloat16", "float16", "autocast bfloat16", "autocast float16"])
@pytest.mark.parametrize("path", PATHS)
def test_outputs_and_gradients_are_those_of_float64(on_both, device, path, how):
    """The router decides in float32 by the same numbers on both sides, so the experts are the same."""
    name = how.split()[-1]
    auto = how != name
    dtype = torch.float32 if auto else getattr(torch, name)
    far = {}
    for kind, width in itertools.product(KINDS, SIZES.values()):
        want, got = on_both(made(path, width, **KINDS[kind]), dtype)
        want.path = "loop"
        x, grad = tokens("cpu", 3, 40, width[0]).double(), tokens("cpu", 3, 40, width[0]).double()
        with torch.autocast(device.type, getattr(torch, name)) if auto else contextlib.nullcontext():
            found = results(got, x.to(device, dtype), grad.to(device, dtype))
        try:
            assert_near(found, results(want, x, grad), LIMITS[name])
        except AssertionError as error:
            far[kind, width] = error
    assert not far


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("path", PATHS)
def test_no_token_one_token_and_experts_without_any(device, path, dtype):
    layer = made(path).to(device, dtype)
    for shape in ((0, 64), (0, 5, 64), (1, 64)):
        x = torch.ones(*shape, device=device, dtype=dtype).requires_grad_()
        y = layer(x)
        assert y.shape == shape
        (y.sum() + moezoo.aux_loss(layer)).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.experts.parameters())
        idle = layer.experts.w_in.grad.flatten(1).abs().sum(1) == 0
        assert idle.sum() >= 4
        assert (~idle).any() == bool(shape[0])
        layer.eval()
        with torch.no_grad():
            assert layer(x).shape == shape
        layer.train()
        layer.zero_grad()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", PATHS)
def test_all_tokens_at_one_expert(on_both, path, dtype):
    layer = made(path, num_experts=8, top_k=1)
    with torch.no_grad():
        layer.router.weight.zero_()[5] = 1.0
    want, got = on_both(layer, dtype)
    want.path = "loop"
    x = tokens("cpu", 300, 64).abs().double()
    found = results(got, x.to(got.router.weight.device, dtype), x.to(got.router.weight.device, dtype))
    assert_near(found, results(want, x, x), LIMITS[str(dtype)[6:]])


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("path", PATHS)
def test_the_same_call_gives_the_same_bits(device, path, dtype, deterministic):
    """Without the flag where a token's rows are summed in their order; two of them commute."""
    rows = 3 if deterministic or path not in ("loop", *FREE) else 2
    layer = made(path, num_experts=8, top_k=rows).to(device, dtype)
    x = tokens(device, 500, 64, dtype=dtype)
    torch.use_deterministic_algorithms(deterministic)
    try:
        first, second = (results(layer, x, x) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(False)
    for name, value in first.items():
        assert torch.equal(second[name], value), name


@pytest.mark.usefixtures("only_cuda")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_never_waits_for_the_device(device, kind, training):
    """What ``auto`` takes there enqueues its work and returns, forward, losses and backward."""
    layer = made(**KINDS[kind]).to(device, torch.bfloat16).train(training)
    x = tokens(device, 4, 64, 64, dtype=torch.bfloat16)

    def step():
        with torch.set_grad_enabled(training):
            y = layer(x)
            if training:
                (y.float().square().mean() + moezoo.aux_loss(layer)).backward()

    step()  # what is set up once may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("only_cuda")
@pytest.mark.timeout(200)
@pytest.mark.parametrize("case", ["training_step mlp glu dropping all slots", "compiled mlp"])
def test_cuda_graphs_are_replayed_for_other_tokens(case):
    program = [sys.executable, str(Path(__file__).parent / "captured.py"), *case.split()]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-3000:]


@pytest.mark.usefixtures("only_cuda")
def test_what_only_a_cpu_computes_is_refused_by_name(device):
    with pytest.raises(ConfigError, match="path='native'"):
        made("native").to(device)(tokens(device, 5, 64))


def test_autocast_leaves_float64_and_the_router_alone(device):
    layer = made().double().to(device)
    with torch.autocast(device.type, torch.bfloat16), torch.no_grad():
        assert layer(tokens(device, 5, 64, dtype=torch.float64)).dtype == torch.float64
        layer.float()
        assert layer(tokens(device, 5, 64)).dtype == torch.bfloat16
        assert layer.router(tokens(device, 5, 64)).weight.dtype == torch.float32
