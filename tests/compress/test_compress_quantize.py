"""int8 weights: how near they are, what they cost, and that nothing else of a model changes."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from compressible import answer, images_for
from torch import nn
from torch.nn import functional as F

import moezoo
from moezoo.altered.int8 import Int8Tensor
from moezoo.altered.rounding import to_int8
from moezoo.compress import dequantize, is_quantized, quantize, size_of
from moezoo.errors import ConfigError, ExportError, InputError, NonFiniteError
from moezoo.export import export_model
from moezoo.measure import flops, parameters
from moezoo.moe import MoELayer
from moezoo.train import TrainingConfig
from moezoo.train.optim import build_optimizer

MODES = ("int8_dynamic", "int8_weight_only")
KINDS = {
    "mlp": {},
    "glu": {},
    "residual_mlp": {},
    "conv": {"expert_args": {"grid": (4, 4)}, "router": "dense_softmax", "top_k": 4},
    "lora": {"expert_args": {"rank": 8}},
}
FAMILIES = ("entity_moe/digits", "diff_moe/digits", "attention_routing/digits", "multiscale_moe/synthetic")


def relative(a, b):
    return float(((a.double() - b.double()).norm() / b.double().norm()).detach())


@pytest.fixture(scope="module", params=FAMILIES)
def trio(request):
    """A model with its images, and its two quantised copies."""
    torch.manual_seed(0)
    model = moezoo.create_model(request.param).eval()
    images = images_for(model, 6)
    return model, images, {mode: quantize(copy.deepcopy(model), mode) for mode in MODES}


def test_a_scale_per_channel_rounds_to_the_nearest_and_bounds_the_error():
    weight = torch.randn(3, 20, 30, dtype=torch.float64) * torch.logspace(-3, 3, 20, dtype=torch.float64)[:, None]
    values, scale = to_int8(weight, 2)
    assert values.dtype == torch.int8
    assert values.abs().max() == 127
    assert scale.shape == (3, 20)
    torch.testing.assert_close(scale, weight.abs().amax(-1) / 127)
    error = (Int8Tensor(values, scale, MODES[0]).dequantize() - weight).abs()
    assert (error <= scale[..., None] / 2 * (1 + 1e-9)).all()
    zero, its_scale = to_int8(torch.zeros(2, 5), 1)
    assert not zero.any()
    assert (its_scale > 0).all()


@pytest.mark.parametrize("rows", [1, 3, 70])
@pytest.mark.parametrize("width", [33, 64])
def test_whole_number_products_are_those_of_the_rounded_numbers(rows, width):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, width, generator=generator)
    weight, bias = torch.randn(20, width, generator=generator), torch.randn(20, generator=generator)
    values, scale = to_int8(weight, 1)
    rounded = (x.double() / (x.double().abs().amax(-1, keepdim=True) / 127)).round()
    exact = (rounded @ values.double().T) * (x.double().abs().amax(-1, keepdim=True) / 127) * scale.double() + bias
    got = F.linear(x, Int8Tensor(values, scale, "int8_dynamic"), bias)
    # A number halfway between two may go to either.
    assert relative(got, exact) < 2e-3
    plain = F.linear(x, Int8Tensor(values, scale, "int8_weight_only"), bias)
    torch.testing.assert_close(plain, F.linear(x, values * scale[:, None], bias), rtol=1e-4, atol=1e-4)
    assert relative(got, F.linear(x, weight, bias)) < 0.02
    assert 0 < relative(plain, F.linear(x, weight, bias)) < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_small_weights_round_as_finely_as_large_ones_in_every_type(dtype):
    weight = (torch.randn(8, 64, generator=torch.Generator().manual_seed(0)) * 5e-4).to(dtype)
    values, scale = to_int8(weight, 1)
    assert scale.dtype == dtype
    assert 0 < relative(Int8Tensor(values, scale, MODES[0]).dequantize(), weight) < 0.012


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_products_of_long_rows_do_not_overflow(autocast):
    layer = nn.Linear(2048, 8, bias=False)
    nn.init.uniform_(layer.weight, 0, 0.02)
    x = torch.rand(2, 2048) * 8
    wanted = layer(x)
    quantize(layer, "int8_weight_only")
    if autocast:
        with torch.autocast("cpu", torch.float16):
            got = layer(x)
    else:
        got = layer.half()(x.half())
    assert got.dtype == torch.float16
    assert relative(got, wanted) < 0.01


def test_every_use_of_a_weight_in_training_is_an_error():
    table = quantize(nn.Embedding(64, 32))
    experts = quantize(MoELayer(32, num_experts=2, hidden_dim=64)).experts
    table.train()
    experts.train()
    uses = (
        lambda: table(torch.arange(3)),
        lambda: experts.w_in[0],
        lambda: experts.w_in.flatten(0, 1),
        lambda: experts.w_in.unbind(0),
        lambda: experts.w_in + 1,
    )
    for use in uses:
        with pytest.raises(InputError, match="for evaluation alone"):
            use()


def test_rows_that_are_not_finite_or_none_at_all_stay_so():
    weight = Int8Tensor(*to_int8(torch.randn(8, 4), 1), "int8_dynamic")
    x = torch.tensor([[1.0, torch.nan, 0, 0], [torch.inf, 1, 1, 1], [0, 0, 0, 0], [1, 2, 3, 4]])
    y = F.linear(x, weight, None)
    assert y.isfinite().all(1).tolist() == [False, False, True, True]
    assert (y[2] == 0).all()
    assert F.linear(x[:0], weight, None).shape == (0, 8)
    assert F.linear(x.reshape(2, 2, 4), weight, None).shape == (2, 2, 8)


def test_models_are_three_times_smaller_and_answer_nearly_the_same(trio):
    model, images, quantised = trio
    with torch.no_grad():
        wanted = answer(model, images)
        for mode, small in quantised.items():
            assert is_quantized(small)
            assert size_of(model).bytes >= 3 * size_of(small).bytes
            assert size_of(model).weights == size_of(small).weights
            assert size_of(small).int8 > 0.9 * size_of(small).weights
            whole, counted = parameters(model), parameters(small)
            assert (counted.total, counted.active, counted.trainable) == (whole.total, whole.active, 0)
            # Untrained: a token between two experts may go to the other one.
            assert 0 < relative(answer(small, images), wanted) < 0.1, mode


def test_routing_recording_flops_and_copies_work_as_before(trio):
    model, images, quantised = trio
    for small in quantised.values():
        counted, before = flops(small, images), flops(model, images)
        assert counted.executed == counted.analytic
        assert counted.executed == pytest.approx(before.executed, rel=0.05)
        with moezoo.record_routing(small) as records, torch.no_grad():
            output = answer(small, images)
        assert records
        again = pickle.loads(pickle.dumps(copy.deepcopy(small)))
        with torch.no_grad():
            assert torch.equal(answer(again, images), output)
            again.get_parameter(next(name for name, _ in again.named_parameters())).add_(1.0)
            assert torch.equal(answer(small, images), output)


def test_routers_stay_float_and_the_stacks_of_experts_do_not(trio):
    model, _, quantised = trio
    names = {name for name, _ in quantised[MODES[0]].named_parameters()}
    for path, module in model.named_modules():
        if isinstance(module, MoELayer):
            kept = {name for name, _ in module.router.named_parameters() if not name.startswith("gates.layers")}
            assert {f"{path}.router.{name}" for name in kept} <= names
            large = [name for name, p in module.experts.named_parameters() if p.dim() > 1 and p.numel() >= 1024]
            assert large
            assert names.isdisjoint(f"{path}.experts.{name}" for name in large)


def test_position_embeddings_are_rounded_row_by_row(trio):
    model, _, quantised = trio
    tables = {name: p for name, p in model.named_parameters() if name.endswith(("pos_embed", ".position"))}
    for small in quantised.values():
        state = small.state_dict()
        for name, table in tables.items():
            values, scale = state[f"{name}_int8"], state[f"{name}_scale"]
            assert values.dtype == torch.int8
            assert scale.shape == table.shape[:-1]
            torch.testing.assert_close(scale, table.detach().abs().amax(-1) / 127)
            assert ((values * scale[..., None] - table).abs() <= scale[..., None] * 0.501).all()


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_dinov2", "swin_tiny_patch4_window7_224"])
def test_position_embeddings_of_backbones_are_resampled_and_added_as_before(name):
    timm = pytest.importorskip("timm")
    small = {"depth": 1} if name.startswith("vit") else {"depths": (1, 1, 1, 1)}
    resized = {"img_size": 112, "dynamic_img_size": True} if name.startswith("vit") else {}
    model = timm.create_model(name, num_classes=0, **small, **resized).eval()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        exact, got = model(images), quantize(copy.deepcopy(model), "int8_weight_only")(images)
    assert 0 < relative(got, exact) < 0.05
    names = quantize(model).state_dict()
    assert ("pos_embed_int8" in names) == name.startswith("vit")
    assert not any("bias_table_int8" in key for key in names)


def test_training_is_a_clear_error_and_nothing_learns(trio):
    _, images, quantised = trio
    small = copy.deepcopy(quantised["int8_dynamic"])
    assert not any(p.requires_grad for p in small.parameters())
    small.train()
    with pytest.raises(InputError, match=r"int8.*for evaluation alone.*model\.eval\(\)"):
        small(images)
    with pytest.raises(ConfigError, match="quantised already"):
        quantize(small)
    with pytest.raises(ConfigError, match=r"quantised to int8.*dequantize"):
        build_optimizer(small, TrainingConfig())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_stacked_expert_is_quantised(kind, mode):
    torch.manual_seed(0)
    args = {"num_experts": 4, "top_k": 2, **KINDS[kind]}
    layer = MoELayer(32, hidden_dim=64, expert=kind, **args).eval()
    for parameter in layer.experts.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    tokens = torch.randn(2, 16, 32)
    with torch.no_grad():
        wanted, before = layer(tokens), size_of(layer).bytes
        small = quantize(copy.deepcopy(layer), mode)
        assert relative(small(tokens), wanted) < 0.05
        assert size_of(small).bytes < before / 2.5
        x_TD = tokens.reshape(-1, 32)
        assert torch.equal(small.router(x_TD).expert_index, layer.router(x_TD).expert_index)
        none = small(tokens[:0]) if kind != "conv" else small(tokens)
    assert none.shape[1:] == (16, 32)
    assert flops(small, tokens).executed == flops(layer, tokens).executed


def test_gradients_of_the_input_pass_through_for_explanations():
    torch.manual_seed(0)
    layer = MoELayer(32, num_experts=4, hidden_dim=64).eval()
    x = torch.randn(5, 32, requires_grad=True)
    layer(x).sum().backward()
    wanted, x.grad = x.grad, None
    quantize(layer, "int8_dynamic")(x).sum().backward()
    assert relative(x.grad, wanted) < 0.05


def test_float_weights_come_back_of_the_rounded_numbers_and_learn():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(40, 40), nn.GELU(), nn.Linear(40, 40))
    net[2].weight = net[0].weight  # tied, and tied afterwards
    x = torch.randn(3, 40)
    names = list(net.state_dict())
    small = quantize(net, "int8_weight_only")
    assert small is net
    assert small[0].weight_int8 is small[2].weight_int8
    with torch.no_grad():
        output = small(x)
    dequantize(net).train()
    assert list(net.state_dict()) == names or set(net.state_dict()) == set(names)
    assert net[0].weight is net[2].weight
    torch.testing.assert_close(net(x), output)
    net(x).sum().backward()
    assert net[0].weight.grad is not None
    assert dequantize(net) is net


def test_other_peoples_modules_and_half_precision_work():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True).eval()
    convs = nn.Sequential(
        nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 4)
    ).eval()
    words = nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 48)).eval()
    for net, x in ((encoder, torch.randn(2, 7, 64)), (convs, torch.randn(2, 8, 8, 8)), (words, torch.arange(9))):
        with torch.no_grad():
            wanted = net(x)
            small = quantize(copy.deepcopy(net))
            assert 0 < relative(small(x), wanted) < 0.03
            half = copy.deepcopy(small).to(torch.bfloat16)
            given = x.to(torch.bfloat16) if x.is_floating_point() else x
            assert half(given).dtype == torch.bfloat16
            assert relative(half(given), wanted) < 0.05
            with torch.autocast("cpu", torch.bfloat16):
                assert relative(small(x), wanted) < 0.05
    with torch.device("meta"):
        assert quantize(nn.Linear(64, 64))(torch.empty(2, 64, device="meta")).shape == (2, 64)


def test_what_cannot_be_quantised_is_refused():
    with pytest.raises(ConfigError, match=r"mode='int4'.*int8_dynamic"):
        quantize(nn.Linear(64, 64), "int4")
    with pytest.raises(ConfigError, match="has no linear layer"):
        quantize(nn.ReLU())
    net = nn.Linear(64, 64)
    with torch.no_grad():
        net.weight[0, 0] = torch.nan
    with pytest.raises(NonFiniteError, match="weight"):
        quantize(net)
    assert isinstance(net.weight, nn.Parameter)


def test_an_mlp_gate_stores_its_hidden_layers_small_and_decides_in_float32():
    torch.manual_seed(0)
    args = {"num_heads": 2, "gate_layers": 3}
    layer = MoELayer(64, num_experts=3, top_k=3, router="mlp_gate", router_args=args, hidden_dim=64).eval()
    tokens = torch.randn(6, 64)
    wanted = layer.router(tokens)
    small = quantize(copy.deepcopy(layer))
    got = small.router(tokens)
    assert got.logits.dtype == torch.float32
    assert relative(got.probs, wanted.probs) < 0.01
    assert isinstance(small.router.weight, nn.Parameter)
    assert small.router.gates.layers[0].weight_int8.shape == (2, 32, 64)
    assert size_of(layer).bytes > 3 * size_of(small).bytes
    # The numbers of the gate that is computed are exactly those of the stored ones.
    plain = dequantize(copy.deepcopy(small)).eval()
    torch.testing.assert_close(plain.router(tokens).probs, got.probs)


@pytest.mark.slow
def test_weight_only_models_are_exported_with_int8_weights_and_dynamic_ones_are_not(tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model("attention_routing/digits").eval()
    whole = export_model(model, tmp_path / "float.pt2", format="pt2").file.stat().st_size
    small = quantize(copy.deepcopy(model), "int8_weight_only")
    assert export_model(small, tmp_path / "small.pt2", format="pt2").file.stat().st_size < 0.7 * whole
    with pytest.raises(ExportError, match="does not compute what the model does"):
        export_model(quantize(model, "int8_dynamic"), tmp_path / "dynamic.pt2", format="pt2")
