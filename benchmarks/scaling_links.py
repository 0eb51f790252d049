"""On paper: how long what travels takes, over links inside a machine and between machines."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scaling_model import Layout, Move, Vit, payload


@dataclass(frozen=True)
class Hardware:
    """The inputs of every time below."""

    name: str
    memory: float
    """Bytes of a GPU."""
    flops: float
    """Of a GPU in bfloat16, dense."""
    utilisation: float
    """Of that, what a training reaches."""
    per_machine: int
    inside: float
    """Bytes a second that a GPU sends to the others of its machine."""
    between: float
    """Bytes a second that a GPU sends to other machines."""
    efficiency: float
    """Of both, what a collective reaches."""
    inside_latency: float
    """Seconds of one hop."""
    between_latency: float


H100 = Hardware(
    name="DGX H100",
    memory=80e9,
    flops=989e12,
    utilisation=0.35,
    per_machine=8,
    inside=450e9,
    between=50e9,
    efficiency=0.75,
    inside_latency=3e-6,
    between_latency=10e-6,
)


def group_shape(layout: Layout, group: str, machine: int) -> tuple[int, int]:
    """Members of a group in one machine, and machines it reaches over. Neighbours share the experts."""
    n = layout.expert_parallel
    here = min(layout.world, machine)
    if group == "world":
        return here, math.ceil(layout.world / machine)
    if group == "ep":
        return min(n, here), math.ceil(n / machine)
    inside = max(here // n, 1)
    return inside, max(layout.replicas // inside, 1)


def hops(move: Move, size: float, inside: int, between: int) -> tuple[float, float]:
    """Bytes that a GPU sends inside its machine and to others, for ``size`` handed to a collective.

    Sums and gathers work in two stages: inside each machine every GPU ends up with its share, which travels between
    the machines on a link of its own. One ring of g moves (g - 1) / g of the whole per gather or scatter, and a sum is
    one of each. An exchange sends (g - 1) / g of a GPU's rows away, evenly to all.
    """
    if move.kind == "all_to_all":
        g = inside * between
        return size * (inside - 1) / g, size * (g - inside) / g
    rounds = 2 if move.kind == "all_reduce" else 1
    return rounds * size * (inside - 1) / inside, rounds * size / inside * (between - 1) / between


def seconds(
    moved: dict[Move, float], layout: Layout, machine: Hardware, calls: dict[str, int]
) -> dict[str, tuple[float, float, float]]:
    """Per kind of collective: bytes inside, bytes between, and the time of both with the latency of each call."""
    result: dict[str, tuple[float, float, float]] = {}
    for move, size in moved.items():
        shape = group_shape(layout, move.group, machine.per_machine)
        near, far = hops(move, size, *shape)
        steps = machine.inside_latency * math.log2(max(shape[0], 1)) + machine.between_latency * math.log2(shape[1])
        time = near / machine.inside / machine.efficiency + far / machine.between / machine.efficiency
        time += steps * calls.get(move.kind, 1)
        before = result.get(move.kind, (0.0, 0.0, 0.0))
        result[move.kind] = (before[0] + near, before[1] + far, before[2] + time)
    return result


@dataclass(frozen=True)
class Step:
    """The estimate of one step."""

    compute: float
    hidden: float
    """Seconds of what can travel while products are computed: gradients and parameters."""
    exposed: float
    """Seconds of what the next product waits for: rows to experts and back."""
    inside: float
    between: float
    """Bytes sent by a GPU."""

    @property
    def time(self) -> float:
        return max(self.compute, self.hidden) + self.exposed


def estimate(vit: Vit, layout: Layout, images: int, machine: Hardware, product_bytes: int = 2) -> Step:
    """A step of ``images`` on each GPU."""
    compute = 3 * vit.flops() * images / (machine.flops * machine.utilisation)
    blocks = vit.depth + 1
    calls = {"all_reduce": blocks, "all_gather": 2 * blocks, "reduce_scatter": blocks, "all_to_all": 5 * vit.moe_blocks}
    parts = seconds(payload(vit, layout, images, product_bytes), layout, machine, calls)
    exposed = parts.get("all_to_all", (0.0, 0.0, 0.0))[2]
    return Step(
        compute=compute,
        hidden=sum(part[2] for part in parts.values()) - exposed,
        exposed=exposed,
        inside=sum(part[0] for part in parts.values()),
        between=sum(part[1] for part in parts.values()),
    )


def break_even(vit: Vit, spread: Layout, machine: Hardware, product_bytes: int = 2) -> float:
    """Images a GPU up to which spreading the experts takes less of the links' time than not to spread them.

    Both sides are counted as if nothing overlapped. What the rows cost grows with the images; what they save, the
    gradients (and with FSDP the weights) of experts that need not travel, does not.
    """
    whole = Layout(spread.world, spread.sharded)

    def total(layout: Layout, images: int) -> float:
        step = estimate(vit, layout, images, machine, product_bytes)
        return step.hidden + step.exposed

    fixed = total(spread, 0)
    per_image = (total(spread, 1000) - fixed) / 1000
    return max((total(whole, 0) - fixed) / per_image, 0.0)
