"""Parameters and executed FLOPs of the published models beside what their papers say. Nothing is allocated.

python benchmarks/published_sizes.py          # a minute; then python benchmarks/cards.py fills the documents
"""

from __future__ import annotations

from typing import Any

import torch
import typer
from card_tables.published import published_table
from cards import store
from published import mobile_vmoe, soft_moe, swin_moe, vmoe
from published.row import Row

import moezoo
from moezoo.moe import MoELayer

ROWS = [*vmoe.ROWS, *soft_moe.ROWS, *swin_moe.ROWS, *mobile_vmoe.ROWS]


def main() -> None:
    """Measure every row."""
    rows = [measure(row) for row in ROWS]
    path = store("published_sizes", "published", command="python benchmarks/published_sizes.py", rows=rows)
    print(f"{published_table({'rows': rows})}\n\nwritten: {path}; python benchmarks/cards.py fills the documents")


def measure(row: Row) -> dict[str, Any]:
    """Counts of one model, and what its paper says."""
    (parameters, active), executed, full = counts(row)
    found: dict[str, Any] = {
        "paper": row.paper,
        "model": row.name,
        "options": dict(row.options),
        "source": row.source,
        "note": row.note,
        "parameters": parameters,
        "published_parameters": None if row.parameters is None else row.parameters * 1e6,
        "active": active,
        "published_active": None if row.active is None else row.active * 1e6,
        "flops": executed,
        "full_flops": full,
        "published_flops": None if row.gflops is None else row.gflops * 1e9,
    }
    if row.share is not None and row.baseline is not None:
        found |= {"share": 100 * full / counts(row.baseline)[1], "published_share": row.share}
    return found


def counts(row: Row) -> tuple[tuple[int, int], int, int]:
    """Parameters, and those that a token uses; FLOPs per image as executed, and with what experts would compute of room
    that nobody took."""
    with torch.device("meta"):
        model = moezoo.create_model(row.name, **row.options).eval()
        images = torch.empty(1, *model.pretrained_cfg["input_size"])
    executed = moezoo.measure.flops(model, images).executed
    size = moezoo.measure.parameters(model)
    return (size.total, size.active), executed, executed + sum(map(unused, _layers(model)))


def unused(layer: tuple[MoELayer, int]) -> int:
    """FLOPs per image of a layer's room beyond what its tokens choose, where experts have a fixed room."""
    moe, tokens = layer
    router, size = moe.router, moe.router.group_size
    if not router.limited or size is None:
        return 0
    rows = router.num_experts * router.capacity(size) / size - router.top_k
    matrices = (weight for weight in moe.experts.parameters() if weight.dim() == 3)
    return round(2 * tokens * max(rows, 0) * sum(weight[0].numel() for weight in matrices))


def _layers(model: Any) -> list[tuple[MoELayer, int]]:
    rows, columns = model.patch_embed.grid_size if hasattr(model, "patch_embed") else (0, 0)
    tokens = rows * columns + getattr(model, "num_prefix_tokens", 0)
    return [(module, tokens) for module in model.modules() if isinstance(module, MoELayer)]


if __name__ == "__main__":
    typer.run(main)
