"""The C++ kernel gives what the reference gives, and is optional: never taken unbuilt, and clear when it cannot be."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, build_native
from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.flops import FLOP_FORMULAS
from moezoo.moe.paths import MLPStack, loop, native

NAMES = ("output", "x", "w_in", "b_in", "w_out", "b_out")
# Rows of each expert: none, one, a bit less and more than a vector, and more than one task takes.
SIZES = [7, 0, 57, 1, 130, 0, 16]
LIMITS = {torch.float32: 2e-6, torch.bfloat16: 1e-2}


@pytest.fixture(autouse=True, scope="module")
def built():
    build_native()
    yield
    native._built = False  # other tests are about the paths that need no compiler


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def dtypes():
    return [dtype for dtype in LIMITS if native.supports(torch.device("cpu"), dtype)]


def inputs(sizes, dim, hidden, gated=False, dtype=torch.float32):
    E, width = len(sizes), hidden * (2 if gated else 1)
    w_in, w_out = torch.randn(E, width, dim) / dim**0.5, torch.randn(E, dim, hidden) / hidden**0.5
    tensors = torch.randn(sum(sizes), dim), w_in, torch.randn(E, width), w_out, torch.randn(E, dim)
    return [t.to(dtype) for t in tensors]


def results(run, tensors, grad, sizes, activation="gelu", gated=False):
    """The output and every gradient."""
    tensors = [t.detach().clone().requires_grad_() for t in tensors]
    y = run(tensors[0], SimpleNamespace(sizes=sizes, plain=False), MLPStack(*tensors[1:], activation, gated))
    y.backward(grad)
    return [y.detach(), *(t.grad for t in tensors)]


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("dim", "hidden"), [(64, 96), (37, 51), (100, 65)])
def test_outputs_and_gradients_stay_within_rounding_of_the_reference_in_float64(activation, gated, dim, hidden):
    for dtype in dtypes():
        tensors, grad = inputs(SIZES, dim, hidden, gated, dtype), torch.randn(sum(SIZES), dim).to(dtype)
        got = results(native.run, tensors, grad, SIZES, activation, gated)
        expected = results(loop.run, [t.double() for t in tensors], grad.double(), SIZES, activation, gated)
        for name, one, other in zip(NAMES, got, expected, strict=True):
            assert one.dtype == dtype
            assert ((one.double() - other).norm() / other.norm()).item() <= LIMITS[dtype], (dtype, name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_exact_to_rounding_far_from_zero_too(activation):
    h = torch.cat([torch.linspace(-30, 30, 2401), torch.tensor([-1e30, 1e30, -1e-30, 0.0])])
    eye, zero = torch.eye(1).view(1, 1, 1), torch.zeros(1, 1)
    grad = torch.ones(len(h), 1)
    tensors = h[:, None], eye, zero, eye, zero
    got = results(native.run, tensors, grad, [len(h)], activation)
    expected = results(loop.run, [t.double() for t in tensors], grad.double(), [len(h)], activation)
    bound = 5e-7 * h[:, None].abs().clamp(1e-3, 30).double()
    assert ((got[0] - expected[0]).abs() <= bound.clamp_min(1e-7) + 2e-7 * expected[0].abs()).all()
    assert ((got[1] - expected[1]).abs() <= 1e-6 * h[:, None].abs().clamp(1, 4)).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_broken_number_spoils_its_own_row_alone(activation):
    tensors = inputs([9], 32, 48)
    clean = native.run(tensors[0], SimpleNamespace(sizes=[9], plain=False), MLPStack(*tensors[1:], activation, False))
    tensors[0][4, 3] = float("nan")
    y = native.run(tensors[0], SimpleNamespace(sizes=[9], plain=False), MLPStack(*tensors[1:], activation, False))
    assert y[4].isnan().all()
    others = [i for i in range(9) if i != 4]
    assert torch.equal(y[others], clean[others])


def test_results_are_the_same_bits_for_any_number_of_threads(threads):
    for dtype in dtypes():
        tensors, grad = inputs([70, 3], 48, 96, dtype=dtype), torch.randn(73, 48).to(dtype)
        threads(1)
        expected = results(native.run, tensors, grad, [70, 3])
        for count in (2, 7):
            threads(count)
            for name, one, other in zip(NAMES, results(native.run, tensors, grad, [70, 3]), expected, strict=True):
                assert torch.equal(one, other), (dtype, count, name)


def test_experts_without_rows_get_zero_gradients():
    got = results(native.run, inputs([0, 5], 16, 32), torch.randn(5, 16), [0, 5])
    for grad in got[2:]:
        assert (grad[0] == 0).all()
        assert (grad[1] != 0).any()


def test_views_that_are_not_contiguous_are_computed():
    tensors, grad = inputs([5, 6], 16, 24), torch.randn(11, 16)
    expected = results(native.run, tensors, grad, [5, 6])
    wide = [torch.stack([t, t], -1)[..., 0] for t in tensors]
    leaves = [t.requires_grad_() for t in wide]
    y = native.run(leaves[0], SimpleNamespace(sizes=[5, 6], plain=False), MLPStack(*leaves[1:], "gelu", False))
    y.backward(torch.stack([grad, grad], -1)[..., 0])
    for one, other in zip([y, *(t.grad for t in leaves)], expected, strict=True):
        assert torch.equal(one, other)


def test_only_wanted_gradients_are_computed():
    x, *weights = inputs([5, 6], 16, 24)
    expected = results(native.run, [x, *weights], torch.ones(11, 16), [5, 6])
    x.requires_grad_()
    native.run(x, SimpleNamespace(sizes=[5, 6], plain=False), MLPStack(*weights, "gelu", False)).sum().backward()
    assert torch.equal(x.grad, expected[1])
    weights = [w.requires_grad_() for w in weights]
    plan = SimpleNamespace(sizes=[5, 6], plain=False)
    native.run(x.detach(), plan, MLPStack(*weights, "gelu", False)).sum().backward()
    for w, other in zip(weights, expected[2:], strict=True):
        assert torch.equal(w.grad, other)


def test_second_derivatives_are_the_references():
    def penalty(run):
        torch.manual_seed(0)
        x, *weights = (t.requires_grad_() for t in inputs([5, 6], 16, 24))
        y = run(x, SimpleNamespace(sizes=[5, 6], plain=False), MLPStack(*weights, "gelu", False))
        (grad,) = torch.autograd.grad(y.pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), weights[0])[0]

    torch.testing.assert_close(penalty(native.run), penalty(loop.run), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("router", ["softmax_topk", "top_p", "expert_choice", "soft", "threshold"])
def test_a_layer_takes_it_by_itself_and_gives_what_the_reference_gives(router):
    layer = MoELayer(24, num_experts=4, router=router, hidden_dim=40)
    x = torch.randn(2, 20, 24)
    assert layer._path(x.view(-1, 24), layer.router(x.view(-1, 24))) == "native"
    got = layer(x)
    layer.path = "loop"
    torch.testing.assert_close(got, layer(x), rtol=1e-5, atol=1e-5)


def test_a_layer_takes_it_neither_for_other_dtypes_nor_with_dropout_nor_traced():
    layer = MoELayer(24, num_experts=4, top_k=2, hidden_dim=40, dropout=0.1)
    x = torch.randn(200, 24)
    assert layer._path(x, layer.router(x)) == "loop"
    layer.eval()
    assert layer._path(x, layer.router(x)) == "native"
    layer.double()
    assert layer._path(x.double(), layer.router(x.double())) == "sorted"
    layer.path = "native"
    with pytest.raises(ConfigError, match="float64"):
        layer(x.double())
    layer.to("meta").path = "auto"
    assert layer._path(x.double().to("meta"), layer.router(x.double().to("meta"))) == "grouped"


def test_no_rows_at_all_are_computed():
    layer = MoELayer(24, num_experts=4, hidden_dim=40, path="native")
    x = torch.zeros(0, 24, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.shape == (0, 24)


def test_autocast_computes_in_bfloat16_and_gradients_keep_the_weights_dtype():
    layer = MoELayer(24, num_experts=4, top_k=2, hidden_dim=40)
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.randn(200, 24))
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


@pytest.mark.parametrize("expert", ["mlp", "glu"])
def test_its_flops_are_counted(expert):
    layer = MoELayer(24, num_experts=4, top_k=2, hidden_dim=40, expert=expert, aux_weights={}, path="native")
    x = torch.randn(200, 24, requires_grad=True)
    counts = []
    for path in ("native", "loop"):
        layer.path = path
        with FlopCounterMode(display=False, custom_mapping=FLOP_FORMULAS) as counter:
            y = layer(x)
            counts.append(counter.get_total_flops())
            y.sum().backward()
            counts.append(counter.get_total_flops())
    assert counts[0] == counts[2] == layer.flops(layer.router(x))
    assert counts[1] == counts[3]


def test_function_transforms_take_the_reference():
    layer = MoELayer(24, num_experts=4, top_k=2, hidden_dim=40, path="native").eval()
    x = torch.randn(20, 24)
    params = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(params):
        return torch.func.functional_call(layer, params, (x,)).square().sum()

    found = torch.func.grad(loss)(params)
    layer.path = "loop"
    for name, value in torch.func.grad(loss)(params).items():
        torch.testing.assert_close(found[name], value)


def test_unbuilt_it_is_refused_and_never_chosen(monkeypatch):
    monkeypatch.setattr(native, "_built", False)
    layer = MoELayer(24, num_experts=4, top_k=2, hidden_dim=40)
    x = torch.randn(200, 24)
    assert layer._path(x, layer.router(x)) == "sorted"
    layer.path = "native"
    with pytest.raises(ConfigError, match=r"build_native\(\)"):
        layer(x)


def test_without_compiler_or_ninja_the_error_says_what_is_needed(tmp_path):
    code = (
        "import os\n"
        "import moezoo.moe as moe\n"
        "from moezoo.errors import MissingPackageError\n"
        "for lack in ({'CXX': '/no/compiler'}, {'PATH': ''}):\n"
        "    kept = dict(os.environ)\n"
        f"    os.environ.update(lack, TORCH_EXTENSIONS_DIR={str(tmp_path)!r} + '/without-' + min(lack))\n"
        "    try:\n        moe.build_native()\n"
        "    except MissingPackageError as error:\n        print(*lack, error)\n"
        "    os.environ.clear()\n    os.environ.update(kept)\n"
        "layer = moe.MoELayer(8, num_experts=2, hidden_dim=8)\n"
        "import torch\nprint(layer(torch.randn(100, 8)).shape)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for lack, because in (("CXX", "/no/compiler"), ("PATH", "Ninja is required")):
        (said,) = re.findall(rf"^{lack} (.*)", done.stdout, re.MULTILINE)
        assert because in said
        assert "needs a C++ compiler" in said
        assert "moezoo[native]" in said
    assert "torch.Size([100, 8])" in done.stdout
