"""Models made from the JAX reference's parameters compute what the reference computed: its stored numbers, and an
independent float64 forward on configurations drawn at random."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from vmoe_drawn import draw
from vmoe_reference import bfloat16, forward, moe_block
from vmoe_stored import STORED, far, gradients_of, model_of, nchw, run, stored, told_noise

import moezoo
from moezoo.models import soft_moe, vmoe
from moezoo.moe import MoELayer, record_routing

TOKEN_CHOICE = ("vmoe_token_nodrop", "vmoe_token_tight", "vmoe_token_tight_bpr", "vmoe_gap_prelogits")
EVALUATED = (*TOKEN_CHOICE, "ec_gap", "soft_gap_slots2", "soft_gap_slots2_fp32dispatch")
TRAINED = ("vmoe_train_k2", "ec_train")
FLOAT32, ROUNDED = 1e-5, 2e-3
"""What float32 may differ by, and where experts are given bfloat16: there an element rounds up or down."""


def check_choices(routing, expected):
    """Token choice: the same experts, best first, and the same drops; expert choice: the same tokens."""
    if "expert_index" in expected:
        shape = expected["expert_index"].shape
        assert (routing.expert_index.numpy().reshape(shape) == expected["expert_index"]).all()
        assert (~routing.dropped.numpy().reshape(shape) == expected["kept"]).all()
        return
    groups, experts, room = expected["top_items_index"].shape
    size = routing.num_tokens // groups
    theirs = expected["top_items_index"] + size * np.arange(groups)[:, None, None]
    wanted = {(int(token), e) for e in range(experts) for token in theirs[:, e].ravel()}
    kept = ~routing.dropped
    ours = zip(routing.token_index[kept].tolist(), routing.expert_index[kept].tolist(), strict=True)
    assert len(wanted) == groups * experts * room
    assert set(ours) == wanted


def of_block(arrays, i):
    prefix = f"route/encoderblock_{i}/"
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}


def spy(module):
    """What the module is given and what it gives, from now on."""
    given, made = [], []

    def note(_module, args, out):
        given.append(args[0])
        made.append(out)

    module.register_forward_hook(note)
    return given, made


def check_stored(arrays, parts, routings, logits, tolerance):
    assert far(logits, arrays["out/logits"]) <= tolerance
    for i in range(sum(name.startswith("blocks.") for name in parts)):
        assert far(parts[f"blocks.{i}"], arrays[f"inter/Encoder/encoderblock_{i}"]) <= tolerance, i
    grid = arrays["inter/embedding"]
    assert far(parts["patch_embed"].reshape(grid.shape), grid) <= tolerance
    assert far(parts["norm"], arrays["inter/Encoder"]) <= tolerance
    if "inter/pre_logits" in arrays:
        before = (
            np.tanh(arrays["inter/pre_logits"]) if "params/pre_logits/bias" in arrays else arrays["inter/pre_logits"]
        )
        assert far(parts["pre_logits"], before) <= tolerance
    assert {f"route/encoderblock_{i}" for i in routings} == {
        key.rpartition("/")[0] for key in arrays if key.startswith("route/")
    }
    for i, routing in routings.items():
        expected = of_block(arrays, i)
        if routing.slots is None:
            check_choices(routing, expected)
            assert (
                far(routing.clean_logits.reshape(expected["gate_logits_clean"].shape), expected["gate_logits_clean"])
                <= tolerance
            )
            combine = expected["combine_GSE"]
            assert far(routing.weight_by_expert().reshape(combine.shape), combine) <= tolerance
        else:
            for kind in ("dispatch", "combine"):
                assert far(getattr(routing.slots, kind), expected[f"{kind}_weights"]) <= tolerance


@pytest.mark.parametrize("name", EVALUATED)
@torch.no_grad()
def test_blocks_routing_and_logits_are_those_that_the_reference_stored(name):
    arrays, _, _ = stored(name)
    model = model_of(name)
    assert not model.training
    parts, routings, logits = run(model, nchw(arrays["input/image"]))
    check_stored(arrays, parts, routings, logits, ROUNDED if name == "soft_gap_slots2" else FLOAT32)
    path = STORED / f"{name}.logits_f64.npy"
    assert path.is_file() == (name != "soft_gap_slots2")
    if path.is_file():
        assert far(model.double()(nchw(arrays["input/image"]).double()), np.load(path)) <= 1e-12


def test_dropping_is_put_to_the_test():
    kept = [stored(name)[0]["route/encoderblock_1/kept"] for name in TOKEN_CHOICE]
    assert [(~one).sum() for one in kept] == [0, 32, 32, 0]
    assert (kept[1] != kept[2]).any(), "batch priority drops others"


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_step_is_the_reference_s(name):
    arrays, _, _ = stored(name)
    model = model_of(name).train()
    with told_noise(arrays[f"noise/encoderblock_{i}"] for i in (1, 3)):
        parts, routings, logits = run(model, nchw(arrays["input/image"]))
    check_stored(arrays, parts, routings, logits, FLOAT32)
    main, aux = F.cross_entropy(logits, torch.from_numpy(arrays["input/labels"])), moezoo.aux_loss(model)
    assert far(main, arrays["train/main_loss"]) <= 1e-6
    assert far(aux, arrays["train/aux_loss_mean"]) <= 1e-6
    assert far(main + aux, arrays["train/total_loss"]) <= 1e-6
    (main + aux).backward()
    gradients = gradients_of(model)
    expected = {key.removeprefix("grad/"): array for key, array in arrays.items() if key.startswith("grad/")}
    assert gradients.keys() == expected.keys()
    for key, array in expected.items():
        if key.endswith("SelfAttention/key/bias") and not model.moezoo_config.qk_norm:
            continue  # softmax does not feel what is added to all keys: what is stored is rounding
        assert np.abs(gradients[key] - array).max() <= FLOAT32, key
    losses = moezoo.moe.losses
    for i, routing in routings.items():
        metrics = f"metrics/encoderblock_{i}"
        if f"{metrics}/importance_loss" in arrays:
            found = losses.importance_loss(routing), losses.load_loss(routing)
            found = (*found, losses.load_balancing_loss(routing, first_choice=True))
            for ours, kind in zip(found, ("importance_loss", "load_loss", "gshard_loss"), strict=True):
                assert far(ours, arrays[f"{metrics}/{kind}"].mean()) <= 1e-6


def test_of_mixtures_tokens_and_results_are_rounded_and_nothing_else():
    arrays, _, config = stored("soft_gap_slots2")
    shipped, exact = model_of("soft_gap_slots2"), model_of("soft_gap_slots2_fp32dispatch")
    for i in config["encoder"]["moe"]["layers"]:
        name = f"inter/Encoder/encoderblock_{i}"
        x = torch.from_numpy(arrays[f"{name}/LayerNorm_1"])
        layer = shipped.blocks[i].mlp
        given, made = spy(layer.experts)
        with torch.no_grad(), record_routing(layer) as records:
            result, unrounded = layer(x), exact.blocks[i].mlp(x)
        assert far(result, arrays[f"{name}/Moe"]) <= FLOAT32
        assert far(unrounded, arrays[f"{name}/Moe"]) > 1e-4
        slots = records[0].routing.slots
        mixed = torch.einsum("blep,bld->ebpd", slots.dispatch, x.bfloat16().float())
        assert far(given[0].reshape(mixed.shape), mixed.numpy()) <= 1e-6
        assert far(made[0].reshape(arrays[f"{name}/Moe/Mlp"].shape), arrays[f"{name}/Moe/Mlp"]) <= FLOAT32
        rounded = made[0].bfloat16().float().reshape(mixed.shape)
        assert far(result, torch.einsum("blep,ebpd->bld", slots.combine, rounded).numpy()) <= 1e-6


@pytest.mark.parametrize("kind", ["topk", "ec"])
def test_of_tokens_themselves_what_experts_get_and_give_is_rounded(kind):
    drawn = next(d for seed in range(100) if rounds(d := draw(seed, kind)))
    i, moe = drawn.config["encoder"]["moe"]["layers"][0], drawn.config["encoder"]["moe"]
    layer = vmoe.from_jax(drawn.params, drawn.config).blocks[i].mlp
    x = torch.randn(4, moe["group_size"], layer.dim, generator=torch.Generator().manual_seed(0))
    given, _ = spy(layer.experts)
    with torch.no_grad(), record_routing(layer) as records:
        result = layer(x)
    rows = {tuple(row) for row in x.reshape(-1, layer.dim).bfloat16().float().tolist()}
    assert {tuple(row) for row in given[0].tolist()} <= rows
    params = {key: np.asarray(array, dtype=np.float64) for key, array in drawn.params.items()}
    expected, routes, _ = moe_block(params, f"Encoder/encoderblock_{i}/Moe", x.double().numpy(), moe, None)
    check_choices(records[0].routing, routes)
    off = np.abs(result.numpy() - expected)
    assert (off <= 1e-6).mean() > 0.99, "an element whose float64 is beside the middle may round the other way"
    router = {**moe["router"], "dispatcher": {**moe["router"]["dispatcher"], "bfloat16": False}}
    exact, _, _ = moe_block(
        params, f"Encoder/encoderblock_{i}/Moe", x.double().numpy(), {**moe, "router": router}, None
    )
    served = np.abs(exact).max(-1) > 0
    assert (np.abs(exact - expected)[served] > 1e-5).mean() > 0.5


def rounds(drawn):
    return drawn.kind == "soft" or drawn.config["encoder"]["moe"]["router"]["dispatcher"].get("bfloat16", False)


def test_the_independent_forward_is_the_reference_s():
    for name in ("vmoe_token_tight_bpr", "vmoe_gap_prelogits", "ec_gap"):
        arrays, params, config = stored(name)
        found = forward(params, config, arrays["input/image"])
        assert np.abs(found.logits - np.load(STORED / f"{name}.logits_f64.npy")).max() <= 1e-13
    for name in TRAINED:
        arrays, params, config = stored(name)
        noise = {i: arrays[f"noise/encoderblock_{i}"] for i in (1, 3)}
        found = forward(params, config, arrays["input/image"], noise)
        assert np.abs(found.logits - arrays["out/logits"]).max() <= FLOAT32
        for i, metrics in found.metrics.items():
            for kind, value in metrics.items():
                assert np.abs(value - arrays[f"metrics/encoderblock_{i}/{kind}"]).max() <= 1e-6
    arrays, params, config = stored("soft_gap_slots2")
    assert np.abs(forward(params, config, arrays["input/image"]).logits - arrays["out/logits"]).max() <= ROUNDED
    values = np.float32([1.0, 1.00390625, 1.01171875, -3.14159, 1e-40])
    assert (bfloat16(values) == torch.tensor(values).bfloat16().double().numpy()).all()


def check_drawn(seed):
    drawn = draw(seed)
    family = soft_moe if drawn.kind == "soft" else vmoe
    model, images = family.from_jax(drawn.params, drawn.config), nchw(drawn.images)
    tolerance = ROUNDED if rounds(drawn) else FLOAT32
    with torch.no_grad():
        parts, routings, logits = run(model, images)
    check_computed(drawn.clean, parts, routings, logits, tolerance)
    computed = {"evaluation/logits": logits}
    model.train()
    noise = drawn.noise.values() if has_noise(model.moezoo_config) else ()
    with told_noise(noise):
        parts, routings, logits = run(model, images)
    check_computed(drawn.noisy, parts, routings, logits, tolerance)
    aux = sum(np.mean(metrics["auxiliary_loss"]) for metrics in drawn.noisy.metrics.values())
    assert far(moezoo.aux_loss(model), aux) <= (1e-4 if rounds(drawn) else 1e-6) * max(1.0, aux)
    computed |= {"training/logits": logits.detach(), "training/auxiliary_loss": moezoo.aux_loss(model).detach()}
    (logits.square().sum() + moezoo.aux_loss(model)).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    params, config = family.to_jax(model)
    assert params.keys() == drawn.params.keys()
    for name, array in params.items():
        assert array.dtype == np.float32
        assert array.shape == drawn.params[name].shape
        assert array.tobytes() == drawn.params[name].tobytes()
    again = family.from_jax({f"params/{name}": array for name, array in params.items()}, config)
    assert again.moezoo_config == model.moezoo_config
    state = again.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    return drawn, computed


def has_noise(config):
    return (config.router_noise if hasattr(config, "router_noise") else config.noise_std) > 0


def check_computed(expected, parts, routings, logits, tolerance):
    assert far(logits, expected.logits) <= tolerance
    for i, block in expected.blocks.items():
        off = np.abs(parts[f"blocks.{i}"].numpy() - block)
        # An element in the middle of two bfloat16 numbers may go up in float32 and down in float64.
        most = np.quantile(off, 0.99) if tolerance == ROUNDED else off.max()
        assert most <= tolerance * max(1.0, np.abs(block).max() / 2), i
    assert routings.keys() == expected.routes.keys()
    for i, route in expected.routes.items():
        if routings[i].slots is None:
            check_choices(routings[i], route)
        else:
            assert (
                far(routings[i].slots.combine.reshape(route["combine_weights"].shape), route["combine_weights"])
                <= tolerance
            )


@functools.cache
def jax_of_drawn():
    """What the reference itself computed of the first configurations."""
    with np.load(STORED / "drawn.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.mark.parametrize("seed", range(27))
def test_models_of_every_kind_compute_what_the_reference_and_the_independent_forward_do(seed):
    drawn, computed = check_drawn(seed)
    found = {key.removeprefix(f"{seed}/"): array for key, array in jax_of_drawn().items() if key.startswith(f"{seed}/")}
    if hashlib.sha256(b"".join(drawn.params[key].tobytes() for key in sorted(drawn.params))).digest() != (
        found["params_sha256"].tobytes()
    ):
        pytest.skip("this numpy draws other numbers")
    for key, array in computed.items():
        assert far(array, found[key]) <= (ROUNDED if rounds(drawn) else FLOAT32), key


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(27, 327))
def test_many_models_of_every_kind_compute_what_the_independent_forward_does(seed):
    check_drawn(seed)


def test_layers_are_the_core_s_own():
    layers = [m for name in ("vmoe_token_tight", "ec_gap") for m in model_of(name).modules() if isinstance(m, MoELayer)]
    assert [layer.router.__class__.__name__ for layer in layers] == ["NoisyTopKRouter"] * 2 + ["ExpertChoiceRouter"] * 2
