"""On paper: what an upcycled ViT's training holds and moves on each GPU, however it is spread.

Bytes are those of one optimiser step of one micro-batch: parameters, gradients and AdamW's two averages in float32,
products and whatever travels for them in ``product_bytes``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from moezoo.train.parallel.cuts import find_cut

FULL = 4
"""Bytes of a float32: parameters, gradients, the optimiser's averages and the sums of gradients."""


class Parameter(NamedTuple):
    shape: tuple[int, ...]
    expert: bool
    """Stacked over the experts."""
    block: int
    """Of the ViT; -1 outside."""

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Vit:
    """A ViT whose MLPs in the last ``moe_blocks`` blocks were upcycled to ``experts`` experts each."""

    name: str
    dim: int
    depth: int
    hidden: int
    moe_blocks: int
    experts: int
    top_k: int = 1
    patches: int = 196
    prefix: int = 1
    patch: int = 16
    channels: int = 3
    classes: int = 1000

    @property
    def tokens(self) -> int:
        """Of an image."""
        return self.patches + self.prefix

    def parameters(self) -> Iterator[Parameter]:
        """Every parameter's shape, as timm and moezoo make them."""
        D, H, E = self.dim, self.hidden, self.experts
        outside = [(D, self.channels, self.patch, self.patch), (D,), (1, self.tokens, D)]
        outside += [(1, self.prefix, D)] * bool(self.prefix) + [(D,), (D,), (self.classes, D), (self.classes,)]
        yield from (Parameter(shape, False, -1) for shape in outside)
        for block in range(self.depth):
            attention = [(D,), (D,), (3 * D, D), (3 * D,), (D, D), (D,), (D,), (D,)]
            moe = block >= self.depth - self.moe_blocks
            mlp = [(E, D)] if moe else [(H, D), (H,), (D, H), (D,)]
            yield from (Parameter(shape, False, block) for shape in attention + mlp)
            if moe:
                yield from (Parameter((E, *shape), True, block) for shape in [(H, D), (H,), (D, H), (D,)])

    def count(self, expert: bool | None = None) -> int:
        """Numbers in all parameters, or in those that are, or are not, experts'."""
        return sum(p.size for p in self.parameters() if expert is None or p.expert == expert)

    def flops(self) -> float:
        """Forward of an image, 2 x multiply-adds of the matrix products."""
        T, D, H = self.tokens, self.dim, self.hidden
        block = 8 * D * D + 4 * T * D + 4 * D * H
        moe = 4 * D * H * (self.top_k - 1) + 2 * D * self.experts
        patches = 2 * self.patches * self.channels * self.patch**2 * D
        return T * (self.depth * block + self.moe_blocks * moe) + patches + 2 * D * self.classes

    def activation_bytes(self, product_bytes: int, spread: bool) -> float:
        """Kept for an image's backward pass, without activation checkpointing.

        Per token and block 15 D + 19 D half-precision bytes (Korthikanti et al. 2022, "Reducing Activation
        Recomputation in Large Transformer Models", eq. 2, without the attention maps that fused attention does not
        keep). Of an MoE, the norm's output, and per assignment the row, both sides of the activation and the result;
        spread, also the rows as they were sent and came back.
        """
        D, H, K = self.dim, self.hidden, self.top_k
        dense = 34 * D
        moe = 15 * D + 2 * D + K * (2 * D + 4 * H + 2 * D) + spread * K * 4 * D
        return self.tokens * (dense * (self.depth - self.moe_blocks) + moe * self.moe_blocks) * product_bytes / 2


@dataclass(frozen=True)
class Layout:
    """``world`` GPUs, of which each ``expert_parallel`` neighbours share the experts."""

    world: int
    sharded: bool
    """``parallel="fsdp"``, else ``ddp``."""
    expert_parallel: int = 1

    @property
    def replicas(self) -> int:
        """Processes with the same experts."""
        return self.world // self.expert_parallel

    @property
    def name(self) -> str:
        return ("FSDP" if self.sharded else "DDP") + (f" + EP {self.expert_parallel}" * (self.expert_parallel > 1))


class Move(NamedTuple):
    """One kind of collective in one kind of group."""

    kind: str
    group: str
    """``world``, ``dp`` (the same experts) or ``ep`` (the same images' experts)."""


def payload(vit: Vit, layout: Layout, images: int, product_bytes: int) -> Counter[Move]:
    """Bytes that each process hands to the collectives of a step: the whole of what is summed, gathered or sent.

    Args:
        images: Of each process.
        product_bytes: Of a number that is gathered for products or travels to an expert: 2 for bfloat16.
    """
    moved: Counter[Move] = Counter()
    spread = layout.expert_parallel > 1
    if layout.world == 1:
        return moved
    for p in vit.parameters():
        group = "dp" if spread and p.expert else "world"
        shape = (p.shape[0] // layout.expert_parallel, *p.shape[1:]) if group == "dp" else p.shape
        parts = layout.replicas if group == "dp" else layout.world
        if parts == 1:
            continue
        gathered = padded(shape, parts, spread and p.expert) if layout.sharded else None
        if gathered is None:
            moved[Move("all_reduce", group)] += math.prod(shape) * FULL
        else:
            # Gathered for the forward and again for the backward pass.
            moved[Move("all_gather", group)] += 2 * gathered * product_bytes
            moved[Move("reduce_scatter", group)] += gathered * FULL
    # The balance loss of all processes: counts, summed probabilities and tokens; and the z-loss's sum and tokens.
    moved[Move("all_reduce", "world")] += vit.moe_blocks * (2 * vit.experts + 3) * FULL
    if spread:
        rows = images * vit.tokens * vit.top_k
        # There and back, forward and backward; before, how many there are for each expert.
        moved[Move("all_to_all", "ep")] += vit.moe_blocks * (4 * rows * vit.dim * product_bytes + 8 * vit.experts)
    return moved


def padded(shape: tuple[int, ...], parts: int, spread: bool = False) -> int | None:
    """Numbers of a parameter that FSDP cuts into pieces of one size; ``None`` where it stays whole."""
    axis = find_cut(shape, parts, **({"spare": 0.0} if spread else {}))
    if axis is None and spread:
        axis = 0
    if axis is None:
        return None
    return math.prod(shape) // shape[axis] * -(-shape[axis] // parts) * parts


def memory(vit: Vit, layout: Layout, images: int, product_bytes: int) -> dict[str, float]:
    """Bytes on each GPU: what stays, what is gathered for the moment, and what the backward pass needs."""
    n, spread = layout.expert_parallel, layout.expert_parallel > 1
    kept = 0.0
    blocks: Counter[int] = Counter()
    for p in vit.parameters():
        shape, parts = (p.shape, layout.world)
        if spread and p.expert:
            shape, parts = (p.shape[0] // n, *p.shape[1:]), layout.replicas
        whole = math.prod(shape)
        pieces = padded(shape, parts, spread and p.expert) if layout.sharded else None
        kept += whole if pieces is None else pieces / parts
        blocks[p.block] += whole
    if layout.sharded:
        # The block at work and the one that is fetched meanwhile, and the gradient before and in its reduction.
        largest = max(blocks.values())
        gathered = largest * (2 * product_bytes + product_bytes + FULL)
    else:
        gathered = sum(blocks.values()) * product_bytes if product_bytes < FULL else 0.0  # autocast's copies
    return {
        "parameters": kept * FULL,
        "gradients": kept * FULL,
        "optimiser": kept * 2 * FULL,
        "gathered": gathered,
        "activations": images * vit.activation_bytes(product_bytes, spread),
    }
