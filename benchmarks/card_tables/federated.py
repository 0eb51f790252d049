"""Federated training against its baselines."""

from __future__ import annotations

import statistics
from typing import Any

from card_tables.text import markdown

TITLES = {
    "federated": "federated: local experts stay",
    "fedavg": "everything averaged by images",
    "local": "every client alone",
    "central": "one model on all images",
}


def federated_table(data: dict[str, Any]) -> str:
    """Test accuracies after the last round, over seeds, and who wins in words."""
    head = ["training", "shared model, all classes", "clients' models, all classes", "worst client", "best client"]
    head.append("the client's own classes")
    rows = []
    for name, title in TITLES.items():
        methods = [run["methods"][name] for run in data["runs"]]
        each = [[score[0] for score in method["test"]] for method in methods]
        own = [_own(run, name) for run in data["runs"]]
        shared = "" if name == "local" else _spread([_shared(run, name) for run in data["runs"]])
        figures = [list(map(statistics.fmean, each)), list(map(min, each)), list(map(max, each))]
        rows.append([title, shared, *(_spread(values) for values in (*figures, own))])
    return f"{markdown(head, rows)}\n\n{verdict(data)}"


def verdict(data: dict[str, Any]) -> str:
    """Seed by seed, in words."""
    runs = data["runs"]
    alone = [max(score[0] for score in run["methods"]["local"]["test"]) for run in runs]
    shared = [_shared(run, "federated") for run in runs]
    sentences = [f"On all classes the shared model is {_against(shared, alone)} the best client alone"]
    for other, title in (("fedavg", "averaging everything"), ("central", "one model on all images")):
        sentences.append(f"{_against(shared, [_shared(run, other) for run in runs])} {title}")
    sentences.append(
        "On their own classes the clients' models are "
        f"{_against([_own(run, 'federated') for run in runs], [_own(run, 'local') for run in runs])} the clients alone"
    )
    for other, title in (("fedavg", "averaging everything"), ("central", "one model on all images")):
        gaps = [_own(run, "federated") for run in runs], [_own(run, other) for run in runs]
        sentences.append(f"{_against(*gaps)} {title}")
    pairs = [
        (one[1], other[1])
        for run in runs
        for one, other in zip(run["methods"]["federated"]["test"], run["methods"]["local"]["test"], strict=True)
    ]
    least = sum(one >= other for one, other in pairs)
    return (
        f"{', '.join(sentences[:3])}. {', '.join(sentences[3:])}; a client is no worse than alone in {least} of "
        f"{len(pairs)} cases."
    )


def _shared(run: dict[str, Any], name: str) -> float:
    """Of the one model that all have; with a single trainer, its own."""
    method = run["methods"][name]
    return method["test"][0][0] if method["server"] is None else method["server"]


def _own(run: dict[str, Any], name: str) -> float:
    return statistics.fmean(score[1] for score in run["methods"][name]["test"])


def _against(these: list[float], those: list[float]) -> str:
    """How many points above or below on average, and in how many seeds above."""
    gaps = [100 * (one - other) for one, other in zip(these, those, strict=True)]
    gap = statistics.fmean(gaps)
    won = sum(each > 0 for each in gaps)
    return f"{abs(gap):.1f} points {'above' if gap > 0 else 'below'} ({won} of {len(gaps)} seeds above)"


def _spread(values: list[float]) -> str:
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean
