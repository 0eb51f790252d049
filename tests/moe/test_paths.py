"""Every way of computing the experts gives what the reference gives, and each call takes the right one."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, Routing, packed_bytes, repack, set_packing
from moezoo.moe.modes import evaluating
from moezoo.moe.paths import RUN as PATHS
from moezoo.moe.paths.choose import FEW
from moezoo.moe.paths.products import inferred
from moezoo.moe.routers import SoftmaxTopKRouter

RUN = [path for path in PATHS if path != "native"]  # which has tests of its own
FAST = [path for path in RUN if path not in ("loop", "packed")]
DIM, HIDDEN, TOKENS, EXPERTS = 24, 40, 60, 4


def spread(module, std=0.4):
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn_like(p) * std)
    return module


def layer_on(path, dtype=torch.float64, **args):
    return spread(MoELayer(DIM, num_experts=EXPERTS, top_k=2, hidden_dim=HIDDEN, path=path, **args)).to(dtype)


def results(layer, x, grad):
    """The output and every gradient."""
    layer.zero_grad()
    x = x.clone().requires_grad_()
    y = layer(x)
    y.backward(grad)
    return {"output": y.detach(), "input": x.grad, **{name: p.grad.clone() for name, p in layer.named_parameters()}}


def relative(one, other):
    other = other.double()
    return ((one.double() - other).norm() / other.norm().clamp_min(1e-30)).item()


@pytest.mark.parametrize("expert", ["mlp", "glu"])
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
@pytest.mark.parametrize("path", FAST)
def test_outputs_and_gradients_equal_the_reference(path, activation, expert):
    layer = layer_on("loop", expert=expert, activation=activation)
    x, grad = torch.randn(3, 20, DIM).double(), torch.randn(3, 20, DIM).double()
    expected = results(layer, x, grad)
    layer.path = path
    for name, value in results(layer, x, grad).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-11, atol=1e-11, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("router", ["top_p", "expert_choice", "softmax_topk", "soft", "threshold"])
@pytest.mark.parametrize("path", FAST)
def test_tokens_with_any_number_of_experts_are_summed_right(path, router):
    layer = spread(MoELayer(DIM, num_experts=EXPERTS, router=router, hidden_dim=HIDDEN)).double()
    if router == "softmax_topk":
        layer.router.capacity_factor = 0.5  # so that some are dropped
    x, grad = torch.randn(2, 20, DIM).double(), torch.randn(2, 20, DIM).double()
    layer.path = "loop"
    expected = results(layer, x, grad)
    layer.path = path
    for name, value in results(layer, x, grad).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-11, atol=1e-11, msg=lambda t, n=name: f"{n}: {t}")


@pytest.mark.parametrize("path", ["loop", *FAST])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-6), (torch.bfloat16, 1e-2)])
def test_rounding_stays_within_the_stated_limit_of_float64(path, dtype, limit):
    layer = layer_on(path, dtype)
    reference = copy.deepcopy(layer).double()
    reference.path = "loop"
    x, grad = torch.randn(512, DIM).to(dtype), torch.randn(512, DIM).to(dtype)
    expected = results(reference, x.double(), grad.double())
    with torch.no_grad():
        layer.eval(), reference.eval()
        same = (layer.router(x).expert_index == reference.router(x.double()).expert_index).all()
        layer.train(), reference.train()
    assert same, "near-ties would compare different experts"
    for name, value in results(layer, x, grad).items():
        assert relative(value, expected[name]) <= limit, name


@pytest.mark.parametrize("path", FAST)
def test_experts_without_rows_get_zero_gradients(path):
    layer = layer_on(path, router="hash", router_args={"key": "token_type"})
    x = torch.randn(8, DIM).double().requires_grad_()
    layer(x, token_type=torch.zeros(8, dtype=torch.int64)).sum().backward()
    for name, p in layer.experts.named_parameters():
        idle = p.grad.flatten(1).abs().sum(1) == 0
        assert idle.any(), name
        assert not idle.all(), name


@pytest.mark.parametrize("path", ["sorted", "batched"])
def test_frozen_experts_pass_gradients_on_and_get_none(path):
    layer = layer_on(path)
    layer.experts.requires_grad_(False)
    x = torch.randn(12, DIM).double().requires_grad_()
    layer(x).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(p.grad is None for p in layer.experts.parameters())


@pytest.mark.parametrize("path", ["loop", "sorted", "batched", "packed", "grouped", "static"])
def test_a_batch_without_tokens_is_computed(path):
    layer = layer_on(path, torch.float32).eval()
    with torch.no_grad():
        assert layer(torch.zeros(0, 5, DIM)).shape == (0, 5, DIM)


@pytest.mark.parametrize("path", ["sorted", "batched", "packed"])
def test_autocast_computes_in_the_lower_precision_and_gradients_keep_the_weights_dtype(path):
    layer = layer_on(path, torch.float32)
    x = torch.randn(64, DIM)
    with torch.autocast("cpu", torch.bfloat16):
        if path == "packed":
            layer.eval()
            with torch.no_grad():
                assert layer(x).dtype == torch.bfloat16
            return
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert {p.grad.dtype for p in layer.parameters()} == {torch.float32}


def test_less_is_kept_for_backward_than_by_plain_autograd():
    def kept(path):
        layer, saved = layer_on(path, torch.float32), {}

        def pack(t):
            saved[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
            return t

        own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(torch.randn(2048, DIM, requires_grad=True))
        return sum(size for ptr, size in saved.items() if ptr not in own)

    assert kept("sorted") < 0.75 * kept("loop")


def test_the_choice_goes_by_device_shape_and_gradients():
    layer = MoELayer(DIM, num_experts=EXPERTS, top_k=2, hidden_dim=HIDDEN)
    many, few = torch.randn(40 * FEW, DIM), torch.randn(4, DIM)

    def choice(x):
        return layer._path(x, layer.router(x))

    assert choice(many) == "sorted"
    layer.router.weight.data.zero_()
    even = Routing.from_choice(torch.arange(4)[:, None], torch.ones(4, 1), torch.zeros(4, 4))
    assert layer.experts.choose_path(few, even) == "batched"
    uneven = Routing.from_choice(torch.zeros(4, 1, dtype=torch.int64), torch.ones(4, 1), torch.zeros(4, 4))
    assert layer.experts.choose_path(few, uneven) == "sorted"
    layer.eval()
    assert choice(many) == "sorted", "gradients are wanted"
    with torch.no_grad():
        assert choice(many) == "packed"
        set_packing(layer, False)
        assert choice(many) == "sorted"
    assert layer.double().experts.choose_path(many.double(), even.detach()) == "batched"
    meta = layer.to("meta")
    assert meta._path(many.to("meta"), meta.router(many.to("meta"))) == "grouped"
    layer = MoELayer(DIM, num_experts=EXPERTS, hidden_dim=HIDDEN, dropout=0.1)
    assert choice(many) == "loop"
    assert layer.eval()._path(many, layer.router(many)) == "sorted"


@pytest.mark.parametrize("path", RUN)
def test_dropout_drops_on_every_path(path):
    layer = layer_on(path, torch.float32, dropout=0.5)
    x = torch.randn(64, DIM)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize("path", RUN)
def test_assignments_in_any_order_are_summed_right(path):
    class Shuffled(SoftmaxTopKRouter):
        def route(self, x_TD):
            routing = super().route(x_TD)
            order = routing.expert_index.argsort(stable=True)
            moved = {
                name: getattr(routing, name)[order] for name in ("token_index", "expert_index", "weight", "dropped")
            }
            return dataclasses.replace(routing, **moved)

    layer = layer_on("loop", torch.float32).eval()
    x = torch.randn(64, DIM)
    expected = layer(x)
    weight = layer.router.weight
    layer.router = Shuffled(DIM, EXPERTS, top_k=2)
    layer.router.weight = weight
    layer.path = path
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("path", RUN)
def test_tokens_and_experts_of_different_types_are_refused_outside_autocast(path):
    layer = layer_on(path, torch.bfloat16).eval()
    with pytest.raises(InputError, match=r"torch.float32 cannot meet experts of torch.bfloat16"):
        layer(torch.randn(64, DIM))


@pytest.mark.parametrize("path", ["sorted", "batched", "packed", "grouped"])
def test_autocast_leaves_float64_alone(path):
    layer = layer_on(path).eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert layer(torch.randn(64, DIM).double()).dtype == torch.float64


@pytest.mark.parametrize("path", ["sorted", "packed"])
def test_a_named_path_is_right_under_function_transforms(path):
    layer = layer_on("loop", torch.float64).eval()
    x = torch.randn(20, DIM).double()

    def loss(params):
        return torch.func.functional_call(layer, params, (x,)).square().sum()

    params = {name: p.detach() for name, p in layer.named_parameters()}
    expected = torch.func.grad(loss)(params)
    layer.path = path
    for name, value in torch.func.grad(loss)(params).items():
        torch.testing.assert_close(value, expected[name])


def test_function_transforms_and_forward_mode_take_the_reference():
    layer = layer_on("auto").eval()
    x = torch.randn(40 * FEW, DIM).double()
    tangent = torch.randn_like(x)
    _, forward = torch.func.jvp(lambda x: layer(x), (x,), (tangent,))
    _, pull = torch.func.vjp(lambda x: layer(x), x)
    cotangent = torch.randn_like(x)
    torch.testing.assert_close((forward * cotangent).sum(), (pull(cotangent)[0] * tangent).sum())
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, tangent)
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(layer(dual)).tangent, forward)


@pytest.mark.parametrize("path", ["sorted", "batched"])
@pytest.mark.parametrize("expert", ["mlp", "glu"])
def test_second_derivatives_are_the_references(path, expert):
    layer = layer_on("loop", expert=expert)
    x = torch.randn(6, DIM).double().requires_grad_()

    def penalty():
        (grad,) = torch.autograd.grad(layer(x).pow(2).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.pow(2).sum(), list(layer.parameters()))

    expected = penalty()
    layer.path = path
    for value, other in zip(penalty(), expected, strict=True):
        torch.testing.assert_close(value, other)


def test_a_path_the_experts_lack_is_refused():
    with pytest.raises(ConfigError, match=r"path='sort' is not allowed\. Did you mean: sorted\?"):
        MoELayer(DIM, num_experts=2, path="sort")


class TestPackedWeights:
    @pytest.fixture
    def layer(self):
        return layer_on("auto", torch.float32).eval()

    @pytest.fixture
    def x(self):
        return torch.randn(40 * FEW, DIM)

    @staticmethod
    def expected(layer, x):
        layer = copy.deepcopy(layer)
        layer.path = "loop"
        return layer(x)

    @pytest.mark.parametrize("expert", ["mlp", "glu"])
    @pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"])
    @torch.no_grad()
    def test_inference_equals_the_reference(self, x, activation, expert):
        layer = layer_on("auto", torch.float32, activation=activation, expert=expert).eval()
        assert relative(layer(x), self.expected(copy.deepcopy(layer).double(), x.double())) < 2e-6
        assert packed_bytes(layer) > 0

    @torch.no_grad()
    def test_the_second_copy_is_counted_and_made_once(self, layer, x):
        assert packed_bytes(layer) == 0
        layer(x)
        assert packed_bytes(layer) == sum(p.numel() * p.element_size() for p in layer.experts.parameters())
        (first,) = layer.experts.packs._packed
        layer(x)
        assert layer.experts.packs._packed == (first,)

    @torch.no_grad()
    def test_changes_that_torch_counts_are_followed(self, layer, x):
        layer(x)
        for change in (
            lambda p: p.mul_(1.5),
            lambda p: p.copy_(torch.randn_like(p)),
            lambda p: p[1].zero_(),
            lambda p: nn.init.normal_(p),
        ):
            for p in layer.experts.parameters():
                change(p)
                torch.testing.assert_close(layer(x), self.expected(layer, x), rtol=1e-4, atol=1e-4)

    def test_an_optimizer_step_is_followed(self, layer, x):
        with torch.no_grad():
            before = layer(x)
        layer(x).sum().backward()
        torch.optim.SGD(layer.parameters(), lr=0.01).step()
        with torch.no_grad():
            assert not torch.equal(layer(x), before)
            torch.testing.assert_close(layer(x), self.expected(layer, x), rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_a_new_parameter_is_followed(self, layer, x):
        layer(x)
        old = layer.experts.w_in
        layer.experts.w_in = nn.Parameter(old * 2)
        torch.testing.assert_close(layer(x), self.expected(layer, x), rtol=1e-4, atol=1e-4)

    @torch.no_grad()
    def test_a_write_through_data_needs_repack(self, layer, x):
        stale = layer(x)
        layer.experts.w_in.data.mul_(2)
        assert torch.equal(layer(x), stale)
        repack(layer)
        torch.testing.assert_close(layer(x), self.expected(layer, x), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize(
        "change",
        [
            lambda layer: layer.train(),
            lambda layer: layer.load_state_dict(layer.state_dict()),
            lambda layer: layer.to(torch.float64),
            lambda layer: set_packing(layer, False),
            repack,
        ],
    )
    def test_the_copy_is_freed(self, layer, x, change):
        with torch.no_grad():
            layer(x)
        assert packed_bytes(layer) > 0
        change(layer)
        assert packed_bytes(layer) == 0

    def test_switched_off_it_stays_off_in_copies_and_pickles(self, layer, x):
        set_packing(layer, False)
        for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            with torch.no_grad():
                other(x)
            assert packed_bytes(other) == 0
        set_packing(layer, True)
        with torch.no_grad():
            layer(x)
        assert packed_bytes(layer) > 0

    def test_copies_and_checkpoints_do_not_carry_it(self, layer, x):
        with torch.no_grad():
            layer(x)
        assert packed_bytes(copy.deepcopy(layer)) == packed_bytes(pickle.loads(pickle.dumps(layer))) == 0
        assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}

    def test_named_it_learns_as_the_reference_does(self, x):
        for mode in (True, False):
            layer = layer_on("packed", torch.float32).train(mode)
            reference = copy.deepcopy(layer)
            reference.path = "loop"
            grad = torch.randn_like(x)
            expected = results(reference, x, grad)
            for name, value in results(layer, x, grad).items():
                torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-3)

    @torch.no_grad()
    def test_named_it_can_be_switched_off_and_leaves_what_it_cannot_compute_to_others(self, x):
        layer = layer_on("packed", torch.float32).eval()
        set_packing(layer, False)
        layer(x)
        assert packed_bytes(layer) == 0
        set_packing(layer, True)
        layer.double()(x.double())
        assert packed_bytes(layer) == 0
        with pytest.raises(ConfigError, match="on='off' is not allowed"):
            set_packing(layer, "off")

    def test_evaluating_for_a_while_leaves_no_copy_in_training(self, layer, x):
        layer.train()
        with evaluating(layer):
            layer(x)
            assert packed_bytes(layer) > 0
        assert layer.training
        assert packed_bytes(layer) == 0

    def test_threads_in_different_precision_do_not_disturb_each_other(self, layer, x):
        few = x[:64]
        with torch.no_grad():
            full = layer(few)
            with torch.autocast("cpu", torch.bfloat16):
                half = layer(few)

        def call(i):
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bool(i % 2)):
                torch.testing.assert_close(layer(few), half if i % 2 else full)
                if i % 10 == 0:
                    repack(layer)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(call, range(200)))

    def test_weights_made_in_inference_mode_are_not_packed(self, x):
        with torch.inference_mode():
            layer = layer_on("auto", torch.float32).eval()
            expected = self.expected(layer, x)
            torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
            assert packed_bytes(layer) == 0


class OfItsOwn(torch.Tensor):
    """A weight that brings its own product, as quantised ones do."""

    @staticmethod
    def __new__(cls, weight):
        return torch.Tensor._make_wrapper_subclass(cls, weight.shape, dtype=weight.dtype)

    def __init__(self, weight):
        self.inner = weight

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        if func is torch.nn.functional.linear:
            return func(args[0], args[1].inner, *args[2:])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise NotImplementedError(str(func))


def test_weights_with_a_product_of_their_own_are_asked_for_it():
    x, weight, bias = torch.randn(16, 6), torch.randn(4, 6), torch.randn(4)
    with torch.no_grad():
        torch.testing.assert_close(inferred(x, OfItsOwn(weight), bias), x @ weight.T + bias)
