"""Stored numbers of the JAX implementation of V-MoE and Soft MoE, and MoE layers that hold its parameters."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moezoo.moe import FixedCapacity, MoELayer, RoundedCapacity

FOLDER = Path(__file__).parents[1] / "fixtures" / "vmoe"
BLOCKS = ("encoderblock_1", "encoderblock_3")


@cache
def described(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


@cache
def arrays(name: str) -> dict[str, Tensor]:
    with np.load(FOLDER / f"{name}.npz") as stored:
        return {key: torch.from_numpy(stored[key]) for key in stored.files}


def layer_of(name: str, block: str) -> MoELayer:
    """The MoE layer of one block, in training or evaluation as the numbers were made."""
    moe, values = described(name)["config"]["encoder"]["moe"], arrays(name)
    router = moe["router"]
    own = {
        k.removeprefix(f"params/Encoder/{block}/Moe/"): v
        for k, v in values.items()
        if f"params/Encoder/{block}/Moe/" in k
    }
    w_in, w_out = (own[f"Mlp/Dense_{i}/kernel"].transpose(1, 2) for i in (0, 1))
    kind, args = _router(router)
    layer = MoELayer(
        w_in.shape[2],
        num_experts=moe["num_experts"],
        hidden_dim=w_in.shape[1],
        activation="gelu_tanh",
        group_size=moe["group_size"],
        router=kind,
        **args,
        **_dispatch(name, kind, router.get("dispatcher", {})),
    )
    state = {"experts.w_in": w_in, "experts.w_out": w_out}
    state |= {f"experts.b_{way}": own[f"Mlp/Dense_{i}/bias"] for i, way in enumerate(("in", "out"))}
    if kind == "soft":
        state |= {"router.phi": own["Router/mu"], "router.scale": own["Router/scale"].reshape(1)}
    else:
        state["router.weight"] = own["Router/dense/kernel"].t()
    layer.load_state_dict({key: value.contiguous() for key, value in state.items()})
    return layer.train(not described(name)["deterministic"])


def _router(router: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name = router.get("name", "NoisyTopExpertsPerItemRouter").rsplit(".", 1)[-1]
    if name == "SoftRouter":
        return "soft", {"router_args": {"num_slots": router["num_slots"]}}
    if name == "NoisyTopItemsPerExpertRouter":
        return "expert_choice", {"router_args": {"sigma": router["noise_std"]}}
    own = {"sigma": router["noise_std"], "batch_priority": router["dispatcher"]["batch_priority"]}
    weights = {"importance": router["importance_loss_weight"], "load": router["load_loss_weight"]}
    return "noisy_topk", {"top_k": router["num_selected_experts"], "router_args": own, "aux_weights": weights}


def _dispatch(name: str, kind: str, dispatcher: dict[str, Any]) -> dict[str, Any]:
    half = dispatcher.get("bfloat16", kind == "soft" and not name.endswith("fp32dispatch"))
    args: dict[str, Any] = {"dispatch_dtype": "bfloat16" if half else None}
    if kind == "soft":
        return args
    if "capacity" in dispatcher:
        return {**args, "capacity_rule": FixedCapacity(dispatcher["capacity"])}
    rule = RoundedCapacity(dispatcher.get("capacity_ceil_or_round", "ceil"), dispatcher.get("capacity_multiple_of", 4))
    return {**args, "capacity_rule": rule, "capacity_factor": dispatcher["capacity_factor"]}
