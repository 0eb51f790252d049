"""Configurations of google-research/vmoe drawn at random, of every kind that it has, with parameters and images.

Parameters are drawn again until no routing decision is close, so that rounding cannot change one.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
from vmoe_reference import forward

KINDS = ("topk", "ec", "soft")
MARGIN = 1e-4


def draw(seed, kind=None, rounded=True):
    """``config``, ``params``, ``images`` (B, H, W, 3), ``noise`` and what the reference computes of them: ``clean`` in
    evaluation, ``noisy`` in training. Without ``rounded`` nothing is rounded to bfloat16, whatever ``config`` says."""
    rng = np.random.default_rng(seed)
    kind = kind or KINDS[seed % len(KINDS)]
    while True:
        config, batch, grid = draw_config(rng, kind)
        sides = [side * size for side, size in zip(grid, config["patch_size"], strict=True)]
        images = rng.uniform(-1, 1, (batch, *sides, 3)).astype(np.float32)
        params = {name: value(rng, name, shape) for name, shape in shapes(config, grid).items()}
        moe = config["encoder"]["moe"]
        noise_shape = (-1, moe["group_size"], moe["num_experts"]) + ((slots(moe),) if kind == "soft" else ())
        tokens = batch * (math.prod(grid) + (config["classifier"] == "token"))
        size = (tokens // moe["group_size"], *noise_shape[1:])
        noise = {i: rng.normal(size=size).astype(np.float32) for i in moe["layers"]}
        clean, noisy = (forward(params, config, images, given, rounded) for given in (None, noise))
        routes = [route for out in (clean, noisy) for route in out.routes.values()]
        if all(np.min(route.get("margin", 1.0)) > MARGIN for route in routes):
            return SimpleNamespace(
                kind=kind, config=config, params=params, images=images, noise=noise, clean=clean, noisy=noisy
            )


def draw_config(rng, kind):
    """A configuration, a batch size and a grid of patches."""

    def one(*values):
        return values[rng.integers(len(values))]

    heads, position = one(1, 2, 3), one("learned", "learned", "sincos2d", "none")
    width, classifier = heads * one(8, 12, 16), one("token", "gap", "map", "0")
    grid, layers, batch = (int(rng.integers(2, 5)), int(rng.integers(2, 5))), one(2, 3, 4), one(2, 3, 4)
    per_image = math.prod(grid) + (classifier == "token")
    parts = [g for g in range(4, batch * per_image + 1) if batch * per_image % g == 0]
    group = one(per_image, batch * per_image, parts[rng.integers(len(parts))])
    group = group if group >= 4 else per_image
    experts = int(rng.integers(2, 7))
    moe = {
        "layers": sorted(rng.choice(layers, size=one(1, 2), replace=False).tolist()),
        "num_experts": experts,
        "group_size": group,
        "split_rngs": one(True, False),
        "router": {"topk": topk_router, "ec": ec_router, "soft": soft_router}[kind](rng, one, experts, group),
    }
    if one(True, False, False):
        moe["mlp_dim"] = one(16, 40)
    encoder = {"num_layers": layers, "mlp_dim": one(24, 32, 48), "num_heads": heads, "dropout_rate": 0.0, "moe": moe}
    if one(True, False):
        encoder["attention_qk_norm"] = one(True, True, False)
    if position != "learned" or one(True, False):
        encoder["position_emb"] = {"name": position}
        if position == "sincos2d" and one(True, False):
            encoder["position_emb"]["temperature"] = 100.0
    config = {
        "num_classes": one(5, 7, 5, None),
        "patch_size": [one(2, 3, 4), one(2, 3, 4)],
        "hidden_size": width,
        "classifier": classifier,
        "encoder": encoder,
    }
    if one(True, False):
        config["representation_size"] = one(None, 12, 20)
    return config, batch, grid


def topk_router(rng, one, experts, group):
    router = {"dispatcher": {"name": one("einsum", "indices"), "batch_priority": one(True, False)}}
    if one(True, True, False):
        router["num_selected_experts"] = int(rng.integers(1, min(3, experts) + 1))
    for key, values in {
        "noise_std": (0.5, 2.0, 0.0),
        "importance_loss_weight": (0.005, 0.0, 0.5),
        "load_loss_weight": (0.005, 0.0, 0.5),
        "gshard_loss_weight": (0.01, 1.0),
    }.items():
        if one(True, False):
            router[key] = one(*values)
    tokens = group * router.get("num_selected_experts", 1)
    return {**router, "dispatcher": {**router["dispatcher"], **room(one, experts, tokens, group)}}


def ec_router(rng, one, experts, group):
    return {
        "name": one("NoisyTopItemsPerExpertRouter", "vmoe.nn.routing.NoisyTopItemsPerExpertRouter"),
        "noise_std": one(1.0, 0.3),
        "dispatcher": {"name": "einsum", **room(one, experts, group, group)},
    }


def room(one, experts, tokens, group):
    """How much an expert takes, in one of the ways there are; at most ``group``, since JAX's expert choice needs it."""
    found = {} if one(True, False) else {"bfloat16": one(True, False)}
    if one(True, False, False, False):
        return {**found, "capacity": one(1, 2, min(5, group))}
    factor, rounding, multiple = (
        one(0.5, 0.8, 1.0, 1.05, 1.5, 2.0),
        one(None, "ceil", "round"),
        one(4, 4, 0, 1, 2, None),
    )
    share = tokens * factor / experts
    whole = round(share) if rounding == "round" else math.ceil(share)
    if whole < 1 or whole + (-whole) % (multiple or 1) > group:
        return {**found, "capacity": 1}
    found["capacity_factor"] = factor
    if rounding:
        found["capacity_ceil_or_round"] = rounding
    if multiple != 4 or one(True, False):
        found["capacity_multiple_of"] = multiple
    return found


def soft_router(rng, one, experts, group):
    router = {"name": "vmoe.projects.soft_moe.router.SoftRouter"}
    if one(True, False) or round(group / experts) < 1:
        router |= {"num_slots": one(1, 2, 3), "capacity_factor": one(None, 1.0)}
    elif one(True, False):
        router["capacity_factor"] = one(1.0, 2.0)
    if one(True, False):
        router["noise_std"] = one(0.0, 0.7)
    if one(True, False):
        router["compute_similarity_metrics"] = False
    return router


def slots(moe):
    """Of each expert."""
    router = moe["router"]
    if router.get("num_slots") is not None:
        return router["num_slots"]
    return round(moe["group_size"] * router.get("capacity_factor", 1.0) / moe["num_experts"])


def shapes(config, grid):
    """Every parameter's, by its name."""
    width, encoder = config["hidden_size"], config["encoder"]
    hidden, heads, moe = encoder["mlp_dim"], encoder["num_heads"], encoder["moe"]
    found = {"embedding/kernel": (*config["patch_size"], 3, width), "embedding/bias": (width,)}
    tokens = math.prod(grid)
    if config["classifier"] == "token":
        found["cls"], tokens = (1, 1, width), tokens + 1
    if encoder.get("position_emb", {}).get("name", "learned") == "learned":
        found["Encoder/posembed_input/pos_embedding"] = (1, tokens, width)

    def norm(name):
        found.update({f"{name}/scale": (width,), f"{name}/bias": (width,)})

    def mlp(name, hidden, *experts):
        found.update({f"{name}/Dense_0/kernel": (*experts, width, hidden), f"{name}/Dense_0/bias": (*experts, hidden)})
        found.update({f"{name}/Dense_1/kernel": (*experts, hidden, width), f"{name}/Dense_1/bias": (*experts, width)})

    def attention(name):
        for role in ("query", "key", "value"):
            found[f"{name}/{role}/kernel"] = (width, heads, width // heads)
            found[f"{name}/{role}/bias"] = (heads, width // heads)
        found[f"{name}/out/kernel"], found[f"{name}/out/bias"] = (heads, width // heads, width), (width,)
        if encoder.get("attention_qk_norm", False):
            found[f"{name}/query_ln/scale"] = found[f"{name}/key_ln/scale"] = (width // heads,)

    for i in range(encoder["num_layers"]):
        name = f"Encoder/encoderblock_{i}"
        norm(f"{name}/LayerNorm_0")
        norm(f"{name}/LayerNorm_1")
        attention(f"{name}/SelfAttention")
        if i not in moe["layers"]:
            mlp(f"{name}/Mlp", hidden)
            continue
        mlp(f"{name}/Moe/Mlp", moe.get("mlp_dim", hidden), moe["num_experts"])
        if moe["router"].get("name", "").endswith("SoftRouter"):
            found[f"{name}/Moe/Router/mu"] = (width, moe["num_experts"], slots(moe))
            found[f"{name}/Moe/Router/scale"] = ()
        else:
            found[f"{name}/Moe/Router/dense/kernel"] = (width, moe["num_experts"])
    norm("Encoder/encoder_norm")
    if config["classifier"] == "map":
        found["MapHead/probe"] = (1, 1, width)
        attention("MapHead/MultiHeadDotProductAttention")
        norm("MapHead/LayerNorm")
        mlp("MapHead/Mlp", hidden)
    if config.get("representation_size") is not None:
        found["pre_logits/kernel"] = (width, config["representation_size"])
        found["pre_logits/bias"] = (config["representation_size"],)
        width = config["representation_size"]
    if config["num_classes"]:
        found["head/kernel"], found["head/bias"] = (width, config["num_classes"]), (config["num_classes"],)
    return found


def value(rng, name, shape):
    """Values that leave signals and routers neither flat nor saturated."""
    last = name.rpartition("/")[2]
    if name.endswith("Router/scale"):
        return np.float32(rng.uniform(2, 6))
    if last == "scale":
        return rng.normal(1.0, 0.1, shape).astype(np.float32)
    if last != "kernel":
        return rng.normal(0.0, 1.0 if last == "mu" else 0.1, shape).astype(np.float32)
    fan_in = math.prod(shape[1:-1] if "/Moe/Mlp/" in name or name.endswith("out/kernel") else shape[:-1])
    fan_in = shape[0] if "SelfAttention" in name and not name.endswith("out/kernel") else fan_in
    return rng.normal(0.0, 1.0 / math.sqrt(fan_in), shape).astype(np.float32)
