"""Slow float64 references, number by number, from the papers and independent of moezoo's code."""

from __future__ import annotations

import math

from moe_reference import naive_routing, naive_softmax
from torch import Tensor


def naive_cv2(values: list[float]) -> float:
    """Squared coefficient of variation by the population standard deviation."""
    mean = sum(values) / len(values)
    return sum((v - mean) ** 2 for v in values) / len(values) / mean**2


def naive_load(clean: Tensor, noisy: Tensor, top_k: int, std: float) -> float:
    loads = [0.0] * clean.shape[1]
    for z, noised in zip(clean.tolist(), noisy.tolist(), strict=True):
        threshold = sorted(noised, reverse=True)[top_k - 1]
        for i, logit in enumerate(z):
            needed = (threshold - logit) / std
            loads[i] += 1 - 0.5 * (1 + math.erf(needed / math.sqrt(2)))
    return naive_cv2([load / len(clean) for load in loads])


def naive_mean_probs(logits: Tensor) -> list[float]:
    probs = [naive_softmax(row) for row in logits.tolist()]
    return [sum(p[i] for p in probs) / len(probs) for i in range(logits.shape[1])]


def naive_used(logits: Tensor, top_k: int) -> list[float]:
    """Assignments of each expert per token."""
    chosen = [e for token in naive_routing(logits, top_k, False) for e, _ in token]
    return [chosen.count(i) / len(logits) for i in range(logits.shape[1])]


def naive_entropy(shares: list[float]) -> float:
    return -sum(p * math.log(p) for p in shares if p > 0)


def naive_kl_to_even(shares: list[float]) -> float:
    return sum(p * math.log(p * len(shares)) for p in shares if p > 0)
