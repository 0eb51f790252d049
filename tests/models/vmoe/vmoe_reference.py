"""google-research/vmoe's forward in float64 numpy, written from its definition, for configurations of every kind.

Slow and plain: one group, one token, one expert at a time where order matters. Arrays are NHWC and named as there.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

erf = np.vectorize(math.erf)


def forward(params, config, images, noise=None, rounded=True):
    """Everything that the reference computes.

    Args:
        params: Arrays by ``/``-joined names.
        config: Of ``VisionTransformerMoe``.
        images: (B, H, W, 3).
        noise: Standard normal numbers of each MoE block, by its index; ``None`` is evaluation.
        rounded: Round what experts get and give to bfloat16, where the reference does.

    Returns:
        ``logits``, ``blocks`` (outputs, by index), ``moe_inputs``, ``routes`` and ``metrics`` (of MoE blocks).
    """
    p = {name: np.asarray(value, dtype=np.float64) for name, value in params.items()}
    encoder = config["encoder"]
    out = SimpleNamespace(blocks={}, moe_inputs={}, routes={}, metrics={})
    x, grid = patches(p, images, tuple(config["patch_size"]))
    cls = config.get("classifier", "token") == "token"
    if cls:
        x = np.concatenate([np.broadcast_to(p["cls"], (len(x), 1, x.shape[2])), x], axis=1)
    x = x + positions(p, encoder.get("position_emb") or {}, grid, x.shape[1:], cls)
    moe = encoder.get("moe") or {}
    for i in range(encoder["num_layers"]):
        name = f"Encoder/encoderblock_{i}"
        x = x + attention(p, f"{name}/SelfAttention", *[layer_norm(p, f"{name}/LayerNorm_0", x)] * 2)
        y = layer_norm(p, f"{name}/LayerNorm_1", x)
        if i in moe.get("layers", ()):
            out.moe_inputs[i] = y
            given = None if noise is None else np.asarray(noise[i], dtype=np.float64)
            y, out.routes[i], out.metrics[i] = moe_block(p, f"{name}/Moe", y, moe, given, rounded)
        else:
            y = mlp(p, f"{name}/Mlp", y)
        x = out.blocks[i] = x + y
    out.encoded = x = layer_norm(p, "Encoder/encoder_norm", x)
    x = pool(p, config.get("classifier", "token"), x)
    if config.get("representation_size") is not None:
        x = np.tanh(dense(p, "pre_logits", x))
    out.logits = dense(p, "head", x) if config["num_classes"] else x
    return out


def patches(p, images, size):
    kernel, (down, right) = p["embedding/kernel"], size
    rows, columns = images.shape[1] // down, images.shape[2] // right
    cut = images[:, : rows * down, : columns * right].astype(np.float64)
    cut = cut.reshape(len(images), rows, down, columns, right, -1).transpose(0, 1, 3, 2, 4, 5)
    x = cut.reshape(len(images), rows * columns, -1) @ kernel.reshape(-1, kernel.shape[-1])
    return x + p["embedding/bias"], (rows, columns)


def positions(p, said, grid, shape, cls):
    if said.get("name", "learned") == "none":
        return 0.0
    if said.get("name", "learned") == "learned":
        return p["Encoder/posembed_input/pos_embedding"]
    (tokens, dim), (rows, columns) = shape, grid
    table = np.zeros((1, tokens, dim))
    omega = 1.0 / said.get("temperature", 10_000.0) ** (np.arange(dim // 4) / (dim // 4 - 1))
    for row in range(rows):
        for column in range(columns):
            x, y = column * omega, row * omega
            table[0, cls + row * columns + column] = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)])
    return table


def layer_norm(p, name, x):
    normed = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p[f"{name}/scale"]
    return normed + p.get(f"{name}/bias", 0.0)


def dense(p, name, x):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def attention(p, name, queries, tokens):
    q, k, v = (
        np.einsum("bnd,dhe->bhne", x, p[f"{name}/{role}/kernel"]) + p[f"{name}/{role}/bias"][:, None]
        for role, x in (("query", queries), ("key", tokens), ("value", tokens))
    )
    if f"{name}/query_ln/scale" in p:
        q, k = layer_norm(p, f"{name}/query_ln", q), layer_norm(p, f"{name}/key_ln", k)
    weights = softmax(q @ k.swapaxes(2, 3) / math.sqrt(q.shape[-1]))
    return np.einsum("bhne,hed->bnd", weights @ v, p[f"{name}/out/kernel"]) + p[f"{name}/out/bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def mlp(p, name, x):
    return dense(p, f"{name}/Dense_1", gelu(dense(p, f"{name}/Dense_0", x)))


def pool(p, classifier, x):
    if classifier == "gap":
        return x.mean(1)
    if classifier == "map":
        probe = np.broadcast_to(p["MapHead/probe"], (len(x), 1, x.shape[2]))
        a = attention(p, "MapHead/MultiHeadDotProductAttention", probe, x)
        return (a + mlp(p, "MapHead/Mlp", layer_norm(p, "MapHead/LayerNorm", a)))[:, 0]
    return x[:, 0]


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def bfloat16(x):
    """Nearest bfloat16, ties to even."""
    bits = np.asarray(x, dtype=np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
    return bits.astype(np.uint32).view(np.float32).astype(np.float64)


def moe_block(p, name, y, moe, noise, rounded=True):
    groups = y.reshape(-1, moe["group_size"], y.shape[-1])
    router = moe.get("router") or {}
    kind = router.get("name", "NoisyTopExpertsPerItemRouter").rpartition(".")[2]
    noise = None if router.get("deterministic") else noise
    route = {
        "NoisyTopExpertsPerItemRouter": top_experts,
        "NoisyTopItemsPerExpertRouter": top_items,
        "SoftRouter": soft,
    }[kind]
    results, routes, metrics = [], [], []
    for g, x in enumerate(groups):
        result, where, losses = route(
            p, name, x, moe["num_experts"], router, None if noise is None else noise[g], rounded
        )
        results.append(result), routes.append(where), metrics.append(losses)
    stacked = [{key: np.stack([each[key] for each in group]) for key in group[0]} for group in (routes, metrics)]
    return np.stack(results).reshape(y.shape), *stacked


def expert(p, name, e, x):
    h = gelu(x @ p[f"{name}/Mlp/Dense_0/kernel"][e] + p[f"{name}/Mlp/Dense_0/bias"][e])
    return h @ p[f"{name}/Mlp/Dense_1/kernel"][e] + p[f"{name}/Mlp/Dense_1/bias"][e]


def capacity(tokens, experts, said):
    if said.get("capacity") is not None:
        return said["capacity"]
    share = tokens * said["capacity_factor"] / experts
    room = math.ceil(share) if said.get("capacity_ceil_or_round", "ceil") == "ceil" else round(share)
    assert room >= 1
    multiple = said.get("capacity_multiple_of", 4)
    return room + (-room) % multiple if multiple else room


def gates_of(p, name, x, experts, router, noise):
    logits = x @ p[f"{name}/Router/dense/kernel"]
    std = router.get("noise_std", 1.0) / experts
    noisy = logits if noise is None or std == 0 else logits + std * noise
    return logits, noisy, std, noise is not None and std != 0


def top_experts(p, name, x, experts, router, noise, rounded):
    said, k, tokens = router["dispatcher"], router.get("num_selected_experts", 1), len(x)
    logits, noisy, std, is_noisy = gates_of(p, name, x, experts, router, noise)
    gates, room = softmax(noisy), capacity(tokens * k, experts, said)
    chosen = np.argsort(-gates, axis=1, kind="stable")[:, :k]
    order = np.arange(tokens)
    if said.get("batch_priority", False):
        order = np.argsort(-gates.max(1), kind="stable")
    filled, buffer = np.zeros(experts, dtype=int), np.zeros((tokens, k), dtype=int)
    for choice in range(k):
        for token in order:
            e = chosen[token, choice]
            buffer[token, choice] = filled[e]
            filled[e] += 1
    cast = bfloat16 if said.get("bfloat16", False) and rounded else np.asarray
    out = np.zeros_like(x)
    for token in range(tokens):
        for choice in range(k):
            e = chosen[token, choice]
            if buffer[token, choice] < room:
                out[token] += gates[token, e] * cast(expert(p, name, e, cast(x[token])))
    clean, top = softmax(logits), np.bincount(gates.argmax(1), minlength=experts) / tokens
    losses = {
        "importance_loss": squared_cv(clean.sum(0)),
        "gshard_loss": experts * (gates.mean(0) * top).sum(),
    }
    weights = {"importance_loss": router.get("importance_loss_weight", 1.0)}
    weights["gshard_loss"] = router.get("gshard_loss_weight", 0.0)
    if is_noisy:
        threshold = np.sort(noisy, axis=1)[:, -k]
        win = 1 - 0.5 * (1 + erf((threshold[:, None] - logits) / std / math.sqrt(2)))
        losses["load_loss"] = squared_cv(win.mean(0))
        weights["load_loss"] = router.get("load_loss_weight", 1.0)
    losses["auxiliary_loss"] = sum(weights[kind] * losses[kind] for kind in weights)
    margin = np.diff(np.sort(gates, axis=1)).min()
    if said.get("batch_priority", False) and tokens > 1:
        margin = min(margin, np.diff(np.sort(gates.max(1))).min())
    route = {"expert_index": chosen, "buffer_index": buffer, "kept": buffer < room, "gates": gates, "margin": margin}
    return out, route, losses


def squared_cv(x):
    return (x.std() / x.mean()) ** 2


def top_items(p, name, x, experts, router, noise, rounded):
    said = router["dispatcher"]
    _, noisy, _, _ = gates_of(p, name, x, experts, router, noise)
    gates, room = softmax(noisy), capacity(len(x), experts, said)
    cast = bfloat16 if said.get("bfloat16", False) and rounded else np.asarray
    out, index, margin = np.zeros_like(x), [], np.inf
    for e in range(experts):
        order = np.argsort(-gates[:, e], kind="stable")
        index.append(order[:room])
        if room < len(x):
            margin = min(margin, gates[order[room - 1], e] - gates[order[room], e])
        for token in order[:room]:
            out[token] += gates[token, e] * cast(expert(p, name, e, cast(x[token])))
    return out, {"top_items_index": np.stack(index), "gates": gates, "margin": margin}, {"auxiliary_loss": 0.0}


def unit(x, axis):
    return x / np.sqrt((x**2).sum(axis, keepdims=True) + 1e-6)


def soft(p, name, x, experts, router, noise, rounded):
    mu = unit(p[f"{name}/Router/mu"], 0) * p[f"{name}/Router/scale"]
    logits = np.einsum("md,dnp->mnp", unit(x, -1), mu)
    if noise is not None:
        logits = logits + router.get("noise_std", 0.0) * noise
    dispatch = softmax(logits, 0)
    combine = softmax(logits.reshape(len(x), -1)).reshape(logits.shape)
    cast = bfloat16 if rounded else np.asarray
    slots = np.einsum("mnp,md->npd", dispatch, cast(x))
    outputs = np.stack([cast(expert(p, name, e, slots[e])) for e in range(experts)])
    result = np.einsum("mnp,npd->md", combine, outputs)
    return result, {"dispatch_weights": dispatch, "combine_weights": combine}, {"auxiliary_loss": 0.0}
