"""What ``from_jax`` refuses, and what it takes a configuration of the JAX reference to mean."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError, WeightsMismatch
from moezoo.models import soft_moe, vmoe
from moezoo.models.moe_vit.positions import resize_positions

STORED = Path(__file__).parents[2] / "fixtures" / "vmoe"


def stored(name):
    with np.load(STORED / f"{name}.npz") as file:
        params = {key.removeprefix("params/"): file[key] for key in file.files if key.startswith("params/")}
    return params, json.loads((STORED / f"{name}.json").read_text())["config"]


@pytest.fixture(scope="module")
def gap():
    return stored("vmoe_gap_prelogits")


@pytest.fixture(scope="module")
def soft():
    return stored("soft_gap_slots2")


def test_every_array_that_does_not_fit_is_told_in_one_error(gap):
    params, config = gap
    changed = {
        **params,
        "Encoder/encoderblock_0/Mlp/Dense_0/kernel": params["Encoder/encoderblock_0/Mlp/Dense_0/kernel"].T,
        "Encoder/encoderblock_1/Moe/Mlp/Dense_1/kernel": params["Encoder/encoderblock_1/Moe/Mlp/Dense_1/kernel"][:3],
        "head/bias": params["head/bias"].astype(np.float64),
        "head/kernel": params["head/kernel"].astype(np.float16),
        "pre_logits/bias": np.where(np.arange(32) == 3, np.nan, params["pre_logits/bias"]).astype(np.float32),
        "pre_logits/kernel": np.zeros(params["pre_logits/kernel"].shape, np.dtype([("bfloat16", "<u2")])),
        "Encoder/encoderblock_2/LayerNorm_2/scale": np.zeros(48, np.float32),
        "opt/count": np.zeros((), np.int32),
    }
    del changed["Encoder/encoderblock_2/LayerNorm_1/scale"], changed["embedding/kernel"]
    with pytest.raises(WeightsMismatch) as caught:
        vmoe.from_jax(changed, config)
    assert str(caught.value).splitlines() == [
        "the arrays do not fit the configuration, 10 of them:",
        "  missing: embedding/kernel (8, 8, 3, 48)",
        "  missing: Encoder/encoderblock_2/LayerNorm_1/scale (48,)",
        "  not in this model: Encoder/encoderblock_2/LayerNorm_2/scale (48,)"
        " Did you mean: Encoder/encoderblock_2/LayerNorm_1/scale?",
        "  not in this model: opt/count ()",
        "  transposed: Encoder/encoderblock_0/Mlp/Dense_0/kernel has shape (96, 48), must have (48, 96)",
        "  of another shape: Encoder/encoderblock_1/Moe/Mlp/Dense_1/kernel has shape (3, 96, 48), must have"
        " (4, 96, 48)",
        "  of another type: pre_logits/kernel is bfloat16, must be float32",
        "  not finite: pre_logits/bias has NaN or infinity in 1 of 32 values",
        "  of another type: head/kernel is float16, must be float32",
        "  of another type: head/bias is float64, must be float32",
    ]


@pytest.mark.parametrize("name", ["vmoe_token_tight", "ec_gap", "soft_gap_slots2"])
def test_each_array_alone_is_missed_and_its_transpose_seen(name):
    params, config = stored(name)
    family = soft_moe if name.startswith("soft") else vmoe
    family.from_jax(params, config)
    for key, array in params.items():
        rest = {other: value for other, value in params.items() if other != key}
        with pytest.raises(WeightsMismatch, match=f"1 of them:\n  missing: {key} "):
            family.from_jax(rest, config)
        if array.T.shape != array.shape:
            with pytest.raises(WeightsMismatch, match=f"1 of them:\n  transposed: {key} has shape"):
                family.from_jax({**params, key: array.T}, config)


def changed(config, place, **values):
    """``config`` with keys of the mapping at ``place`` set, or with ``...`` removed."""
    config = copy.deepcopy(config)
    node = config
    for key in filter(None, place.split(".")):
        node = node.setdefault(key, {})
    for key, value in values.items():
        if value is ...:
            del node[key]
        else:
            node[key] = value
    return config


ROUTER, DISPATCHER = "encoder.moe.router", "encoder.moe.router.dispatcher"


@pytest.mark.parametrize(
    ("place", "values", "message"),
    [
        ("", {"hiden_size": 3}, r"config: unknown key 'hiden_size'\. Did you mean: hidden_size"),
        ("", {"hidden_size": ...}, r"config\.hidden_size is missing"),
        ("", {"hidden_size": "48"}, r"config\.hidden_size='48' is not allowed: it must be int"),
        ("", {"hidden_size": True}, r"config\.hidden_size=True is not allowed: it must be int"),
        ("", {"hidden_size": 0}, "hidden_size=0 is not allowed"),
        ("", {"patch_size": [8]}, r"config\.patch_size=\[8\] is not allowed: it must be a height and a width"),
        ("", {"hidden_size": 50}, "heads must divide hidden_size=50"),
        ("", {"classifier": "cls"}, r"config\.classifier='cls' is not allowed: it must be one of 'token', '0'"),
        ("", {"name": "MlpMixer"}, r"config\.name='MlpMixer'"),
        ("", {"encoder": 3}, r"config\.encoder=3 is not allowed: it must be a mapping"),
        ("encoder", {"num_layer": 3}, r"config\.encoder: unknown key 'num_layer'\. Did you mean: num_layers"),
        ("encoder", {"dtype": "bfloat16"}, r"config\.encoder\.dtype='bfloat16'"),
        ("encoder.position_emb", {"name": "rope"}, "position='rope'"),
        (
            "encoder.moe",
            {"layers": [1, 4]},
            r"config\.encoder\.moe\.layers=\[1, 4\] is not allowed: there is no block 4",
        ),
        ("encoder.moe", {"num_experts": ...}, r"config\.encoder\.moe\.num_experts is missing"),
        ("encoder.moe", {"group_size": ...}, r"config\.encoder\.moe\.group_size is missing"),
        ("encoder.moe", {"expert_size": 3}, r"config\.encoder\.moe: unknown key 'expert_size'"),
        (ROUTER, {"name": "SinkhornRouter"}, r"router\.name='SinkhornRouter' is not allowed: it must be Noisy"),
        (ROUTER, {"name": "f(1)"}, r"router\.name='f\(1\)' is not allowed"),
        (ROUTER, {"num_selected_experts": 5}, "top_k=5 is not allowed"),
        (ROUTER, {"num_selected": 1}, r"config\.encoder\.moe\.router: unknown key 'num_selected'"),
        (ROUTER, {"deterministic": False}, r"router\.deterministic=False is not allowed: noise in evaluation"),
        (DISPATCHER, {"name": "scatter"}, r"dispatcher\.name='scatter' is not allowed: it must be einsum or indices"),
        (DISPATCHER, {"capacity": 4}, "must have either a capacity or a capacity_factor"),
        (DISPATCHER, {"capacity_factor": ...}, "must have either a capacity or a capacity_factor"),
        (DISPATCHER, {"bfloat16": "yes"}, r"dispatcher\.bfloat16='yes' is not allowed: it must be bool"),
        (DISPATCHER, {"batch_prio": True}, r"unknown key 'batch_prio'\. Did you mean: batch_priority"),
    ],
)
def test_a_configuration_that_cannot_be_had_is_refused_by_the_name_of_its_key(gap, place, values, message):
    params, config = gap
    with pytest.raises(ConfigError, match=message):
        vmoe.from_jax(params, changed(config, place, **values))


def test_what_is_left_out_has_the_reference_s_defaults(gap):
    params, config = gap
    config = copy.deepcopy(config)
    moe = config["encoder"]["moe"]
    moe["router"] = {"dispatcher": {"name": "einsum", "batch_priority": False, "capacity_factor": 1}}
    del moe["split_rngs"], config["encoder"]["dropout_rate"], config["encoder"]["attention_dropout_rate"]
    found = vmoe.from_jax(params, config).moezoo_config
    assert (found.router, found.top_k, found.noise_std) == ("noisy_topk", 1, 1.0)
    assert (found.importance_weight, found.load_weight, found.load_balance_weight) == (1.0, 1.0, 0.0)
    assert (found.capacity_rounding, found.capacity_multiple_of, found.dispatch_dtype) == ("ceil", 4, None)
    assert (found.eval_capacity_factor, found.capacity, found.capacity_factor) == (None, None, 1.0)
    assert (found.position, found.qk_norm, found.dropout, found.attention_dropout) == ("learned", False, 0.0, 0.0)
    assert found.experts_dropout == 0.0
    moe["router"] = {"name": "NoisyTopItemsPerExpertRouter", "dispatcher": {"name": "einsum", "capacity": 4}}
    found = vmoe.from_jax(params, config).moezoo_config
    assert (found.router, found.noise_std, found.capacity, found.capacity_factor) == ("expert_choice", 1.0, 4, None)


def test_keys_of_initial_values_and_of_sharding_change_nothing(gap):
    params, config = gap
    more = changed(config, "", name="VisionTransformerMoe", head_bias_init=-6.9, head_kernel_zero_init=True)
    more = changed(more, "encoder.moe", split_rngs=["params"])
    more = changed(more, DISPATCHER, partition_spec=[["expert", "replica"]])
    more["encoder"]["moe"]["layers"] = tuple(more["encoder"]["moe"]["layers"])
    assert vmoe.from_jax(params, more).moezoo_config == vmoe.from_jax(params, config).moezoo_config
    more["num_classes"] = np.int64(more["num_classes"])
    more["encoder"]["dropout_rate"] = np.float32(0.0)
    as_there = SimpleNamespace(to_dict=lambda: more)  # how ml_collections gives it
    assert vmoe.from_jax(params, as_there).moezoo_config == vmoe.from_jax(params, config).moezoo_config
    called = changed(config, ROUTER, name="NoisyTopExpertsPerItemRouter(noise_std=9.0, gshard_loss_weight=0.5)")
    found = vmoe.from_jax(params, called).moezoo_config
    assert (found.noise_std, found.load_balance_weight) == (1.0, 0.5), "keys win over arguments of the call"
    quiet = vmoe.from_jax(params, changed(config, ROUTER, deterministic=True)).moezoo_config
    assert quiet.noise_std == 0.0


def test_a_model_of_the_other_family_is_sent_there(gap, soft):
    with pytest.raises(ConfigError, match=r"moezoo\.models\.soft_moe\.from_jax converts it"):
        vmoe.from_jax(*soft)
    with pytest.raises(ConfigError, match=r"moezoo\.models\.vmoe\.from_jax converts it"):
        soft_moe.from_jax(*gap)
    with pytest.raises(ConfigError, match="config is a VMoEConfig, and a SoftMoEConfig is needed"):
        soft_moe.from_jax(soft[0], vmoe.from_jax(*gap).moezoo_config)


def test_names_may_be_prefixed_or_nested_and_ours_may_be_the_configuration(gap):
    params, config = gap
    model = vmoe.from_jax(params, config)
    prefixed = vmoe.from_jax({f"params/{name}": array for name, array in params.items()}, config)
    nest = {"head": {name[5:]: array for name, array in params.items() if name.startswith("head/")}}
    nest |= {name: array for name, array in params.items() if not name.startswith("head/")}
    ours = vmoe.from_jax(nest, model.moezoo_config)
    for other in (prefixed, ours):
        assert other.moezoo_config == model.moezoo_config
        assert all(torch.equal(tensor, other.state_dict()[key]) for key, tensor in model.state_dict().items())
    with pytest.raises(InputError, match="params must be a mapping"):
        vmoe.from_jax(list(params), config)
    swapped = vmoe.from_jax({**params, "head/kernel": params["head/kernel"].astype(">f4")}, config)
    assert torch.equal(swapped.head.weight, model.head.weight)
    array = params["head/kernel"].copy()
    own = vmoe.from_jax({**params, "head/kernel": array}, config)
    array[:] = 0
    assert own.head.weight.abs().sum() > 0, "the model's memory is its own"


def test_a_dense_vit_has_no_experts_and_either_family_takes_it(gap):
    params, config = gap
    dense = {name: array for name, array in params.items() if "/Moe/" not in name}
    for i in (1, 3):
        for layer in ("Dense_0", "Dense_1"):
            for part in ("kernel", "bias"):
                name = f"Encoder/encoderblock_{i}/Moe/Mlp/{layer}/{part}"
                dense[name.replace("/Moe", "")] = params[name][0]
    for moe in ({"layers": []}, None, ...):
        told = changed(config, "encoder", moe=moe)
        for family in (vmoe, soft_moe):
            model = family.from_jax(dense, told)
            assert model.moezoo_config.placement == ()
            back, again = family.to_jax(model)
            assert again["encoder"]["moe"] == {"layers": []}
            assert all(back[name].tobytes() == array.tobytes() for name, array in dense.items())


def test_the_size_of_images_is_read_off_the_positions_or_said():
    params, config = stored("vmoe_token_nodrop")
    assert vmoe.from_jax(params, config).moezoo_config.img_size == 32
    table = params["Encoder/posembed_input/pos_embedding"]
    short = {**params, "Encoder/posembed_input/pos_embedding": table[:, :7]}
    wide = vmoe.from_jax(short, config)
    assert wide.moezoo_config.img_size == (16, 24)
    images = torch.randn(2, 3, 24, 16)
    assert torch.equal(wide(images), vmoe.from_jax(short, config, img_size=(24, 16))(images)), "six patches, either way"
    with pytest.raises(InputError, match="as many patches"):
        wide(torch.randn(2, 3, 32, 32))
    large = vmoe.from_jax(params, config, img_size=(48, 32))
    assert large.moezoo_config.img_size == (48, 32)
    assert large.moezoo_config.group_size == large.blocks[1].mlp.router.group_size == 25, "still one image"
    assert vmoe.from_jax(params, config, img_size=(48, 32), group_size=34).moezoo_config.group_size == 34
    parts = changed(config, "encoder.moe", group_size=20)
    assert vmoe.from_jax(params, parts, img_size=(48, 32)).moezoo_config.group_size == 20
    own = resize_positions(torch.from_numpy(table), (4, 4), (6, 4), 1)
    assert torch.equal(large.pos_embed, own)
    assert torch.equal(large.pos_embed[:, 0], torch.from_numpy(table[:, 0]))
    assert large(torch.randn(2, 3, 48, 32)).shape == (2, 10)
    flat = {name: array for name, array in params.items() if not name.endswith("pos_embedding")}
    for kind in ("none", "sincos2d"):
        free = vmoe.from_jax(flat, changed(config, "encoder", position_emb={"name": kind}))
        assert free.moezoo_config.img_size == 224
        assert free(torch.randn(17, 3, 8, 16)).shape == (17, 10)


def test_fields_of_ours_go_over_the_configuration(gap):
    model = vmoe.from_jax(*gap, capacity_factor=0.5, drop_path_rate=0.1)
    assert (model.moezoo_config.capacity_factor, model.moezoo_config.drop_path_rate) == (0.5, 0.1)
    with pytest.raises(ConfigError, match="unknown field 'capacity_facto'"):
        vmoe.from_jax(*gap, capacity_facto=0.5)


def test_the_other_way_refuses_what_the_reference_cannot_say(gap, caplog):
    with pytest.raises(InputError, match="to_jax takes a model of vmoe or soft_moe, not a Linear"):
        vmoe.to_jax(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"to_jax takes float32.*model\.float\(\)"):
        vmoe.to_jax(vmoe.from_jax(*gap).double())
    with pytest.raises(ConfigError, match="dense=True is not allowed"):
        vmoe.to_jax(moezoo.create_model("vmoe/digits.dense"))
    broken = vmoe.from_jax(*gap)
    del broken.blocks[0].norm1.bias
    broken.blocks[0].norm1.bias = None
    with pytest.raises(WeightsMismatch, match=r"blocks\.0\.norm1\.bias"):
        vmoe.to_jax(broken)
    _, config = vmoe.to_jax(vmoe.from_jax(*gap, eval_capacity_factor=4.0, drop_path_rate=0.1))
    assert config["encoder"]["moe"]["router"]["dispatcher"]["capacity_factor"] == 2.0
    assert "eval_capacity_factor=4.0" in caplog.text
    assert "drop_path_rate=0.1" in caplog.text
    headless = vmoe.from_jax(*gap)
    headless.reset_classifier(0)
    params, config = vmoe.to_jax(headless)
    assert config["num_classes"] is None
    assert not any(name.startswith("head/") for name in params)


@pytest.mark.parametrize("name", ["vmoe/digits", "soft_moe/digits", "vmoe/digits.expert_choice"])
def test_our_presets_go_there_and_back(name):
    if not moezoo.is_model(name):
        pytest.skip(f"no {name}")
    model = moezoo.create_model(name).eval()
    family = soft_moe if name.startswith("soft") else vmoe
    params, config = family.to_jax(model)
    unsaid = ["dispatch_dtype"] if family is soft_moe else ["eval_capacity_factor"]
    again = family.from_jax(params, config, **{name: getattr(model.moezoo_config, name) for name in unsaid})
    assert again.moezoo_name.startswith(name.partition("/")[0])
    images = torch.randn(4, *model.pretrained_cfg["input_size"])
    assert torch.equal(model(images), again(images))
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in params.values())
