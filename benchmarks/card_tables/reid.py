"""Models that find identities again, and what their gates look at."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from card_tables.text import deviation, markdown, p_value

LEVEL = 0.05
"""A difference with a p below it is called one."""


def fusions_table(data: dict[str, Any]) -> str:
    """A mixture of experts beside other fusions of the same scales, and in words who finds more."""
    variants: dict[str, dict[str, Any]] = data["variants"]
    base = next(iter(variants))

    def row(label: str, key: str, text: Callable[[Sequence[Any]], str]) -> list[str]:
        return [label, *("-" if v.get(key) is None else text(v[key]) for v in variants.values())]

    rows = [
        row("mAP, test identities", "mAP", deviation),
        row("Rank-1, test identities", "r1", deviation),
        row(f"mAP over that of {base}", "over", points),
        row(f"p against {base}, mAP", "p_value", p_value),
        row("mAP, validation identities", "val_mAP", deviation),
        row("parameters", "parameters", lambda v: f"{v[0]:,}"),
        row("executed FLOPs of a sighting", "mflops", lambda v: f"{v[0]:.2f} M"),
    ]
    if "times" in data:
        rows += [
            [f"time over that of {data['times']['baseline']}, {what}", *(ratio(times.get(v)) for v in variants)]
            for what, times in data["times"]["ratios"].items()
        ]
    first, seeds = next(iter(variants.values())), len(data["seeds"])
    head = f"{data['data']}, {first['identities'][0]} test identities, {first['queries'][0]} queries, {seeds} seeds"
    table = markdown([head, *variants], rows)
    return f"{table}\n\nMean ± standard deviation; p: {data['test']}. {verdict(variants, base)}"


def verdict(variants: dict[str, dict[str, Any]], base: str) -> str:
    """Whom the first variant beats, who beats it, and whom it cannot be told apart from."""
    better, worse, alike = [], [], []
    for name, columns in variants.items():
        if name == base:
            continue
        p, gap = columns["p_value"], statistics.mean(columns["over"])
        sure = p is not None and p < LEVEL
        (alike if not sure else worse if gap < 0 else better).append(name)
    parts = [
        f"{base} finds more than {listed(worse)}" if worse else f"{base} finds more than none of them",
        f"less than {listed(better)}" if better else "",
        f"and cannot be told apart from {listed(alike)}" if alike else "",
    ]
    return f"In words, at p < {LEVEL}: {', '.join(part for part in parts if part)}."


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def points(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):+.2f}{spread} points"


def ratio(times: dict[str, float] | None) -> str:
    return "-" if times is None else f"{times['ratio']:.2f} x ({times['low']:.2f} to {times['high']:.2f})"


def gate_table(data: dict[str, Any]) -> str:
    """The mean weights of gates by what was planted, and how well they follow."""
    modalities = list(data["spectra"][0]["planted"])

    def cell(each: dict[str, Any], modality: str) -> str:
        text = plain(each["weights"][modality])
        return f"**{text}**" if each["planted"][modality] else text

    rows = [
        [
            " and ".join(modality for modality, share in each["planted"].items() if share),
            *(cell(each, modality) for modality in modalities),
            deviation(each["mAP"]),
        ]
        for each in data["spectra"]
    ]
    seeds = len(data["seeds"])
    head = [f"spectra with cues, {seeds} seed{'s' * (seeds > 1)}", *(f"weight of {m}" for m in modalities), "mAP"]
    scales = ", ".join(
        f"{plain(next(iter(each['weights'].values())))} with {each['cues']} cues (mAP {deviation(each['mAP'])})"
        for each in data["scales"]
    )
    return (
        f"{markdown(head, rows)}\n\nMean ± standard deviation over the seeds, bold where there are cues. Spearman's "
        f"rank correlation of a modality's weight with its cues: {rank(data['spectra_correlation'])}. The smallest "
        f"windows' weight in {data['scales_model']}: {scales}; rank correlation with the share of fine cues "
        f"{rank(data['scales_correlation'])}."
    )


def plain(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.2f}" + (f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else "")


def rank(found: dict[str, Any]) -> str:
    by_seed = ", ".join(f"{rho:.2f}" for rho in found["by_seed"])
    return f"{found['rho']:.2f} over {found['points']} points, {found['most']:.2f} at most ({by_seed} by seed)"
