"""Slow float64 references for the MoE core, written token by token from the papers and independent of
moezoo's code."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def naive_softmax(row: list[float]) -> list[float]:
    top = max(row)
    exps = [math.exp(z - top) for z in row]
    return [e / sum(exps) for e in exps]


def naive_routing(logits: Tensor, top_k: int, normalize: bool) -> list[list[tuple[int, float]]]:
    """Per token its (expert, weight) pairs, best first, ties to the lowest index."""
    tokens = []
    for row in logits.double().tolist():
        probs = naive_softmax(row)
        order = sorted(range(len(row)), key=lambda e: (-row[e], e))[:top_k]
        total = sum(probs[e] for e in order) if normalize else 1.0
        tokens.append([(e, probs[e] / total) for e in order])
    return tokens


def naive_balance(logits: Tensor, top_k: int, normalize_by_k: bool) -> float:
    chosen = naive_routing(logits, top_k, False)
    num_tokens, num_experts = logits.shape
    probs = [naive_softmax(row) for row in logits.double().tolist()]
    loss = 0.0
    for i in range(num_experts):
        f = sum(1 for token in chosen for e, _ in token if e == i) / (num_tokens * (top_k if normalize_by_k else 1))
        loss += f * sum(p[i] for p in probs) / num_tokens
    return num_experts * loss


def naive_importance(clean_logits: Tensor) -> float:
    probs = [naive_softmax(row) for row in clean_logits.double().tolist()]
    importance = [sum(p[i] for p in probs) for i in range(clean_logits.shape[1])]
    mean = sum(importance) / len(importance)
    return sum((v - mean) ** 2 for v in importance) / len(importance) / mean**2


def naive_z(clean_logits: Tensor) -> float:
    rows = clean_logits.double().tolist()
    return sum(math.log(sum(math.exp(z) for z in row)) ** 2 for row in rows) / len(rows)


def naive_kept(experts: list[list[int]], num_experts: int, capacity: int) -> list[list[bool]]:
    """Which assignments fit: every token's first choice in token order, then every second choice, …"""
    load = [0] * num_experts
    kept = [[False] * len(token) for token in experts]
    for choice in range(len(experts[0])):
        for t, token in enumerate(experts):
            if load[token[choice]] < capacity:
                load[token[choice]] += 1
                kept[t][choice] = True
    return kept


ACTIVATIONS = {
    "relu": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "silu": lambda x: x / (1 + torch.exp(-x)),
}


def naive_expert(x: Tensor, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, act: str, glu: bool) -> Tensor:
    """One token (D,) through one expert."""
    hidden = w_in @ x + b_in
    if glu:
        half = len(hidden) // 2
        hidden = ACTIVATIONS[act](hidden[:half]) * hidden[half:]
    else:
        hidden = ACTIVATIONS[act](hidden)
    return w_out @ hidden + b_out


def naive_mixture(
    x: Tensor,
    params: dict[str, Tensor],
    *,
    top_k: int,
    normalize: bool,
    activation: str,
    glu: bool,
    shared: int,
    capacity: int | None = None,
) -> Tensor:
    """(T, D) through the whole layer, one token and one expert at a time, differentiable."""
    logits = x @ params["router.weight"].T
    num_experts = logits.shape[1]
    chosen = [[e for e, _ in token] for token in naive_routing(logits.detach(), top_k, False)]
    kept = naive_kept(chosen, num_experts, capacity if capacity is not None else len(x) * top_k) if len(x) else []
    out = []
    for t, token in enumerate(chosen):
        probs = torch.exp(logits[t] - logits[t].max()) / torch.exp(logits[t] - logits[t].max()).sum()
        total = sum(probs[e] for e in token) if normalize else 1.0
        y = torch.zeros_like(x[t])
        for choice, e in enumerate(token):
            if kept[t][choice]:
                weights = [params[f"experts.{name}"][e] for name in ("w_in", "b_in", "w_out", "b_out")]
                y = y + probs[e] / total * naive_expert(x[t], *weights, activation, glu)
        for m in range(shared):
            weights = [params[f"shared.{name}"][m] for name in ("w_in", "b_in", "w_out", "b_out")]
            gate = 1 / (1 + torch.exp(-(params["shared.gate.weight"][m] @ x[t] + params["shared.gate.bias"][m])))
            y = y + gate * naive_expert(x[t], *weights, activation, glu)
        out.append(y)
    return torch.stack(out) if out else x * 0


def matrix(tensor):
    """Rows of plain floats."""
    return tensor.detach().double().tolist()


def product(rows, token):
    """Matrix times vector."""
    return [sum(w * x for w, x in zip(row, token, strict=True)) for row in rows]


def best(scores, k):
    """The k largest, ties to the first."""
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))
