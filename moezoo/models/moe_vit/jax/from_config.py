"""The reference's configuration of a model as fields of ours. What it leaves out has the reference's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from moezoo.errors import ConfigError
from moezoo.models.moe_vit.jax.call import parse_call
from moezoo.models.moe_vit.jax.section import MISSING, Section

NONE = type(None)
TOP_K, EXPERT_CHOICE, SOFT = "NoisyTopExpertsPerItemRouter", "NoisyTopItemsPerExpertRouter", "SoftRouter"
CLASSIFIERS = {"token": "token", "0": "first", "gap": "gap", "map": "map"}
"""The reference's word and ours."""
SHARDING = ("partition_spec", "einsum_precision")
"""How the work is spread over devices, and how exact TPUs are."""
FLOAT32 = (None, "float32", "jnp.float32", "jax.numpy.float32")


def family_of(config: Mapping[str, Any]) -> str:
    """``vmoe`` or ``soft_moe``, by the router."""
    encoder = Section(config, "config").section("encoder")
    return "soft_moe" if _router_name(encoder.section("moe").section("router"))[0] == SOFT else "vmoe"


def own_fields(config: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The family, and its fields but for the image's size and channels, which only the arrays know.

    Args:
        config: As google-research/vmoe gives it to ``VisionTransformerMoe``; with its ``name`` or without.

    Raises:
        ConfigError: A key is unknown or missing, or a value is one that has no counterpart here; it is named.
    """
    root = Section(config, "config")
    if "name" in root and (name := parse_call(str(root.values["name"]), "config.name")[0]) != "VisionTransformerMoe":
        raise ConfigError(f"config.name={name!r} is not allowed: what is converted is VisionTransformerMoe.")
    root.ignore("name", "head_bias_init", "head_kernel_zero_init", "deterministic")
    classifier = root.take("classifier", "token", str)
    if classifier not in CLASSIFIERS:
        root.refuse("classifier", f"it must be one of {', '.join(map(repr, CLASSIFIERS))}.")
    patch = root.take("patch_size", MISSING, int, list, tuple)
    sides = [patch] * 2 if isinstance(patch, int) else list(patch)
    if len(sides) != 2 or any(type(side) is not int or side < 1 for side in sides):
        root.refuse("patch_size", "it must be a height and a width.")
    fields: dict[str, Any] = {
        "num_classes": root.take("num_classes", MISSING, int, NONE) or 0,
        "patch_size": sides[0] if sides[0] == sides[1] else sides,
        "hidden_size": root.take("hidden_size", MISSING, int),
        "classifier": CLASSIFIERS[classifier],
        "representation_size": root.take("representation_size", None, int, NONE),
        **_encoder(root.section("encoder")),
    }
    root.done()
    moe = Section(config, "config").section("encoder").section("moe")
    family = family_of(config)
    return family, {**fields, **_moe(moe, fields["num_layers"])}


def _encoder(encoder: Section) -> dict[str, Any]:
    encoder.ignore("moe")
    if encoder.take("dtype", None, str, NONE) not in FLOAT32:
        encoder.refuse("dtype", "the model computes in float32; here torch.autocast is the way to less.")
    position = encoder.section("position_emb")
    position.ignore("h", "w")  # overwritten by the grid of the image
    fields = {
        "num_layers": encoder.take("num_layers", MISSING, int),
        "mlp_dim": encoder.take("mlp_dim", MISSING, int),
        "num_heads": encoder.take("num_heads", MISSING, int),
        "dropout": encoder.take("dropout_rate", 0.0, float),
        "attention_dropout": encoder.take("attention_dropout_rate", 0.0, float),
        "qk_norm": encoder.take("attention_qk_norm", False, bool),
        "position": position.take("name", "learned", str),
        "position_temperature": position.take("temperature", 10_000.0, float),
    }
    position.done()
    encoder.done()
    return fields


def _moe(moe: Section, num_layers: int) -> dict[str, Any]:
    moe.ignore("split_rngs", "deterministic", "dtype")  # of fresh weights; given by the encoder
    layers = list(moe.take("layers", (), list, tuple))
    fields: dict[str, Any] = {"moe_layers": layers}
    if wrong := [i for i in layers if type(i) is not int or not 0 <= i < num_layers]:
        moe.refuse("layers", f"there is no block {wrong[0]!r}; they go from 0 to {num_layers - 1}.")
    if not layers:
        return fields  # whatever else is said of experts, there are none
    router = moe.section("router")
    name, arguments = _router_name(router)
    router.values = {**arguments, **router.values}
    router.ignore("name")
    fields |= {
        "num_experts": moe.take("num_experts", MISSING, int),
        "group_size": moe.take("group_size", MISSING, int),
        "expert_dim": moe.take("mlp_dim", None, int, NONE),
        "expert_dropout": moe.take("dropout_rate", None, float, NONE),
        **{TOP_K: _top_k, EXPERT_CHOICE: _expert_choice, SOFT: _soft}[name](router),
    }
    router.done()
    moe.done()
    return fields


def _router_name(router: Section) -> tuple[str, dict[str, Any]]:
    if "name" not in router:
        return TOP_K, {}
    name, arguments = parse_call(str(router.values["name"]), f"{router.place}.name")
    if name not in (TOP_K, EXPERT_CHOICE, SOFT):
        router.refuse("name", f"it must be {TOP_K}, {EXPERT_CHOICE} or {SOFT}.")
    return name, arguments


def _noise(router: Section, default: float) -> float:
    """Standard deviation of the noise in training, before a division by the number of experts."""
    std = router.take("noise_std", default, float)
    deterministic = router.take("deterministic", None, bool, NONE)
    if deterministic is False and std:
        router.refuse("deterministic", "noise in evaluation is not to be had here.")
    return 0.0 if deterministic else std


def _top_k(router: Section) -> dict[str, Any]:
    dispatcher = router.section("dispatcher")
    fields = {
        "router": "noisy_topk",
        "top_k": router.take("num_selected_experts", 1, int),
        "noise_std": _noise(router, 1.0),
        "importance_weight": router.take("importance_loss_weight", 1.0, float),
        "load_weight": router.take("load_loss_weight", 1.0, float),
        "load_balance_weight": router.take("gshard_loss_weight", 0.0, float),
        "batch_priority": dispatcher.take("batch_priority", False, bool),
    }
    return {**fields, **_room(dispatcher, ("einsum", "indices"))}


def _expert_choice(router: Section) -> dict[str, Any]:
    return {
        "router": "expert_choice",
        "noise_std": _noise(router, 1.0),
        **_room(router.section("dispatcher"), ("einsum",)),
    }


def _room(dispatcher: Section, names: tuple[str, ...]) -> dict[str, Any]:
    dispatcher.ignore(*SHARDING)
    if dispatcher.take("name", "einsum", str) not in names:
        dispatcher.refuse("name", f"it must be {' or '.join(names)}.")
    capacity = dispatcher.take("capacity", None, int, NONE)
    factor = dispatcher.take("capacity_factor", None, float, NONE)
    if (capacity is None) == (factor is None):
        raise ConfigError(f"{dispatcher.place} must have either a capacity or a capacity_factor.")
    fields = {
        "capacity": capacity,
        "capacity_factor": factor,
        "eval_capacity_factor": None,
        "capacity_rounding": dispatcher.take("capacity_ceil_or_round", "ceil", str),
        "capacity_multiple_of": dispatcher.take("capacity_multiple_of", 4, int, NONE),
        "dispatch_dtype": "bfloat16" if dispatcher.take("bfloat16", False, bool) else None,
    }
    dispatcher.done()
    return fields


def _soft(router: Section) -> dict[str, Any]:
    router.ignore("partition_spec", "precision", "compute_similarity_metrics", "mu_init", "scale_init")
    fields = {
        "num_slots": router.take("num_slots", None, int, NONE),
        "router_noise": _noise(router, 0.0),
        "dispatch_dtype": "bfloat16",
    }
    factor = router.take("capacity_factor", 1.0, float, NONE)
    if factor is None and fields["num_slots"] is None:
        router.refuse("capacity_factor", "without num_slots it says how many slots there are.")
    return fields if factor is None else {**fields, "capacity_factor": factor}
