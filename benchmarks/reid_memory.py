"""Time and peak memory of re-identification metrics on many images, on CPU.

    python benchmarks/reid_memory.py                # about ten minutes on two idle cores, below 2 GB

Each case runs in a process of its own; memory is the most that the process ever held, the libraries, 100,000 queries
and a gallery of as many (256 features each) included. CPU time is that of all threads: what others do on the machine
changes it less than the time by the clock. Features that say nothing are the slow case: a query's last match
stands near the end, and whatever stands before it is ranked. The baseline sorts every row whole, for 1,000 queries.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import typer

WIDTH, PER_IDENTITY, CAMERAS = 256, 20, 8
SIDE, SOME, FEW, RERANKED = 100_000, 20_000, 1_000, (3_000, 12_000)

CASES: dict[str, dict[str, Any]] = {
    "features that say nothing": {"spread": None},
    "features that find most": {"spread": 1.5, "queries": SOME},
    "features that say nothing, fewer queries": {"spread": None, "queries": FEW},
    "the same, every row sorted whole": {"spread": None, "queries": FEW, "sorting": True},
    "with re-ranking": {"spread": 1.5, "queries": RERANKED[0], "gallery": RERANKED[1], "rerank": True},
}


def main(
    case: Annotated[str | None, typer.Option(help="run this one case here and print its figures as JSON")] = None,
    scale: Annotated[float, typer.Option(help="of the numbers of images, for a try; not stored unless 1")] = 1.0,
) -> None:
    """Measure every case and store the result."""
    if case is not None:
        print(json.dumps(measure(scale=scale, **CASES[case])))
        return
    rows = []
    for name in CASES:
        command = [sys.executable, __file__, "--case", name, "--scale", str(scale)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rows.append({"case": name, **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
    if scale == 1:
        from cards import store

        path = store("reid_memory", "reid_memory", command="python benchmarks/reid_memory.py", rows=rows)
        print(f"written: {path}; python benchmarks/cards.py fills the documents")


def measure(
    *,
    spread: float | None,
    queries: int = SIDE,
    gallery: int = SIDE,
    sorting: bool = False,
    rerank: bool = False,
    scale: float = 1.0,
) -> dict[str, Any]:
    """One evaluation in this process."""
    from moezoo.eval import reid_metrics

    queries, gallery = int(queries * scale), int(gallery * scale)
    sides = [side(count, gallery // PER_IDENTITY, spread, seed) for seed, count in enumerate((queries, gallery))]
    judge: Callable[..., Any] = by_sorting if sorting else reid_metrics
    begin, used = time.perf_counter(), time.process_time()
    found = judge(*sides, **({"rerank": True} if rerank else {}))
    return {
        "queries": queries,
        "gallery": gallery,
        "seconds": time.perf_counter() - begin,
        "cpu_seconds": time.process_time() - used,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "mAP": found["mAP"],
    }


def side(count: int, identities: int, spread: float | None, seed: int) -> tuple[Any, ...]:
    """(features, identities, cameras): identities' own points with noise around them, or noise alone."""
    import torch

    own = torch.arange(count) % identities
    features = torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(1 + seed))
    if spread is not None:
        centres = torch.randn(identities, WIDTH, generator=torch.Generator().manual_seed(0))
        features.mul_(spread).add_(centres[own])
    return features, own, torch.arange(count) // identities % CAMERAS


def by_sorting(query: tuple[Any, ...], gallery: tuple[Any, ...]) -> dict[str, float]:
    """The usual way: sort the distances of every query, then go through the sorted row."""
    import torch
    from torch.nn import functional as F

    distances = 2 - 2 * F.normalize(query[0]) @ F.normalize(gallery[0]).T
    precisions = []
    for distance, identity, camera in zip(distances, *query[1:], strict=True):
        order = distance.argsort(stable=True)
        right = gallery[1][order] == identity
        right = right[~(right & (gallery[2][order] == camera))].double()
        precisions.append((right.cumsum(0) / torch.arange(1, len(right) + 1) * right).sum() / right.sum())
    return {"mAP": float(torch.stack(precisions).mean())}


if __name__ == "__main__":
    typer.run(main)
