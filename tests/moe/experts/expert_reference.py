"""Every kind of experts computed slowly, in double precision, one token or map at a time, from its formula."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from moezoo.moe import MoELayer

D, H, E, GRID = 4, 6, 4, (2, 3)

KINDS = {
    "mlp": {},
    "glu": {},
    "residual_mlp": {"eps": 0.1},
    "residual_identity": {"residual": "identity", "eps": 0.1},
    "lora": {"rank": 2, "alpha": 3.0},
    "conv": {"grid": GRID},
    "mixed": {"kinds": ["residual_mlp", "zero", "copy", "constant"]},
    "unequal": {"kinds": ["mlp", "glu", "mlp", "mlp"], "hidden_dims": [2, 3, None, 7]},
    "modules": {"make": lambda e: nn.Sequential(nn.Linear(D, 3 + e), nn.Tanh(), nn.Linear(3 + e, D))},
}
"""Arguments of each kind."""
REGISTERED = {"unequal": "mixed", "residual_identity": "residual_mlp"}
"""What a kind is registered as, where this is not its own name."""


def build(kind: str, **args) -> MoELayer:
    """A layer in double precision whose parameters hide nothing (no zeros, no ones)."""
    routing = {"router": "per_image"} if kind == "conv" else {"top_k": 2}
    layer = MoELayer(
        D,
        **{
            "num_experts": E,
            "hidden_dim": H,
            "expert": REGISTERED.get(kind, kind),
            "expert_args": KINDS[kind],
            **routing,
            **args,
        },
    ).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_(std=0.7)
    return layer


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def mlp(x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, gated: bool = False) -> Tensor:
    h = w1 @ x + b1
    h = gelu(h[: len(h) // 2]) * h[len(h) // 2 :] if gated else gelu(h)
    return w2 @ h + b2


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    mean = x.sum() / len(x)
    return (x - mean) / torch.sqrt(((x - mean) ** 2).sum() / len(x) + eps) * weight + bias


def residual_mlp(p: dict[str, Tensor], names: tuple[str, ...], e: int | None, x: Tensor, eps: float) -> Tensor:
    """Without its residual connection; ``e`` picks from stacked parameters."""
    w1, b1, n1, m1, w2, b2, n2, m2 = (p[name] if e is None else p[name][e] for name in names)
    h = gelu(norm(w1 @ x + b1, n1, m1, eps))
    return gelu(norm(w2 @ h + b2, n2, m2, eps))


RESIDUAL = ("w_in", "b_in", "norm1_weight", "norm1_bias", "w_out", "b_out", "norm2_weight", "norm2_bias")
RESIDUAL_MODULE = tuple(
    f"members.0.{part}.{name}" for part in ("fc1", "norm1", "fc2", "norm2") for name in ("weight", "bias")
)


def stacked(p: dict[str, Tensor], e: int) -> list[Tensor]:
    return [p[name][e] for name in ("w_in", "b_in", "w_out", "b_out")]


def single(p: dict[str, Tensor], prefix: str) -> list[Tensor]:
    return [p[prefix + name] for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias")]


def one_token(kind: str, p: dict[str, Tensor], e: int, x: Tensor) -> Tensor:
    """Token x (D,) through expert e; ``p`` are the parameters of the experts."""
    if kind in ("mlp", "glu"):
        return mlp(x, *stacked(p, e), gated=kind == "glu")
    if kind == "residual_mlp":
        return residual_mlp(p, RESIDUAL, e, x, 0.1) + p["w_res"][e] @ x + p["b_res"][e]
    if kind == "residual_identity":
        return residual_mlp(p, RESIDUAL, e, x, 0.1) + x
    if kind == "lora":
        w1, b1, w2, b2 = single(p, "base.")
        w1 = w1 + 3.0 / 2 * p["up_in"][e] @ p["down_in"][e]
        w2 = w2 + 3.0 / 2 * p["up_out"][e] @ p["down_out"][e]
        return mlp(x, w1, b1, w2, b2)
    own = f"members.{e}."
    if kind == "modules":
        hidden = torch.tanh(p[own + "0.weight"] @ x + p[own + "0.bias"])
        return p[own + "2.weight"] @ hidden + p[own + "2.bias"]
    if kind == "unequal":
        return mlp(x, *single(p, own), gated=e == 1)
    if e == 0:
        return residual_mlp(p, RESIDUAL_MODULE, None, x, 1e-5) + p[own + "proj.weight"] @ x + p[own + "proj.bias"]
    if e == 3:
        a, b = torch.exp(p[own + "gate.weight"] @ x)
        return (a * x + b * p[own + "vector"]) / (a + b)
    return x * 0 if e == 1 else x


def one_map(p: dict[str, Tensor], e: int, x: Tensor) -> Tensor:
    """A map (h * w, D) through the convolutional expert e."""
    height, width = GRID
    hidden = [gelu(p["w_in"][e] @ token + p["b_in"][e]) for token in x]
    out = []
    for i in range(height):
        for j in range(width):
            total = p["b_conv"][e]
            for a in range(3):
                for b in range(3):
                    row, column = i + a - 1, j + b - 1
                    if 0 <= row < height and 0 <= column < width:
                        total = total + p["w_conv"][e][:, a, b] * hidden[row * width + column]
            out.append(p["w_out"][e] @ gelu(total) + p["b_out"][e])
    return torch.stack(out)


def mixture(kind: str, layer: MoELayer, x: Tensor) -> Tensor:
    """(B, L, D) through a layer without shared experts."""
    p = dict(layer.experts.named_parameters())
    size = x.shape[1]
    out = []
    for sample in x:
        # The router of "conv" looks at the mean token, the others at each.
        seen = sample.mean(0, keepdim=True).expand_as(sample) if kind == "conv" else sample
        for t in range(size):
            share = torch.exp(layer.router.weight @ seen[t])
            share = share / share.sum()
            chosen = sorted(range(E), key=lambda e: -share[e].item())[: layer.top_k]
            total = sum(share[e] for e in chosen) if layer.top_k > 1 else 1.0
            y = 0
            for e in chosen:
                given = one_map(p, e, sample)[t] if kind == "conv" else one_token(kind, p, e, sample[t])
                y = y + share[e] / total * given
            out.append(y)
    return torch.stack(out).reshape(x.shape)
