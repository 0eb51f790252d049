"""From traces to the figures of a profile: sums over ranges, divided by the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moezoo.measure.profile_result import ExpertSpan, MoESpan, Span, StepProfile
from moezoo.measure.profile_trace import Range, Trace

BETWEEN = "(between parts)"
BINS = 500
"""Of a curve of memory."""


def step_profile(trace: Trace, mode: str, path: str, *, on_cpu: bool) -> StepProfile:
    """The figures of one trace, in which every step is a range ``step`` and every phase a range ``phase``."""
    steps, phases = trace.named("step"), trace.named("phase")
    count = len(steps)
    forwards = [each for each in phases if each.name[1] == "forward"]
    parts = _outermost([part for part in trace.named("part") if any(f.holds(part) for f in forwards)])
    spans = _spans(parts, count)
    whole, inside = _means(forwards, count), _means(parts, count)
    between = Span(BETWEEN, whole[0] - inside[0], whole[1] - inside[1], 0)
    last = steps[-1]
    marks = tuple((p.name[1], p.start - last.start, p.end - last.start) for p in phases if last.holds(p))
    return StepProfile(
        mode=mode,
        steps=count,
        ms=sum(step.ms for step in steps) / count,
        phases=_spans(phases, count),
        parts=(*spans, between),
        moe=_moe(trace, phases, count),
        memory=_curve(trace, last, on_cpu),
        marks=marks,
        trace=path,
    )


def expert_spans(trace: Trace, rows: Mapping[tuple[str, int], float]) -> tuple[ExpertSpan, ...]:
    """The figures of a trace in which every expert ran alone.

    Args:
        trace: With a range ``step`` for each step and, in it, a range ``expert`` for each expert that had rows.
        rows: Of each layer and expert, per step.
    """
    steps = len(trace.named("step"))
    found: dict[tuple[str, int], list[Range]] = {key: [] for key in rows}
    for each in trace.named("expert"):
        found[each.name[1], int(each.name[2])].append(each)
    return tuple(ExpertSpan(*key, rows[key], *_means(ranges, steps)[:2]) for key, ranges in found.items())


def _spans(ranges: Sequence[Range], steps: int) -> tuple[Span, ...]:
    groups: dict[str, list[Range]] = {}
    for each in ranges:
        groups.setdefault(each.name[1], []).append(each)
    return tuple(Span(name, *_means(group, steps)) for name, group in groups.items())


def _moe(trace: Trace, phases: Sequence[Range], steps: int) -> tuple[MoESpan, ...]:
    groups: dict[tuple[str, str, str], list[Range]] = {}
    for each in trace.named("moe"):
        during = next((phase.name[1] for phase in phases if phase.holds(each)), "")
        groups.setdefault((each.name[1], each.name[2], during), []).append(each)
    return tuple(MoESpan(*key, *_means(group, steps)) for key, group in groups.items())


def _means(ranges: Sequence[Range], steps: int) -> tuple[float, float, float]:
    return sum(r.ms for r in ranges) / steps, sum(r.device_ms for r in ranges) / steps, len(ranges) / steps


def _outermost(ranges: Sequence[Range]) -> list[Range]:
    """Those that lie in no other, of ranges in order of their start, longer ones first."""
    kept: list[Range] = []
    for each in ranges:
        if not (kept and kept[-1].holds(each)):
            kept.append(each)
    return kept


def _curve(trace: Trace, step: Range, on_cpu: bool) -> tuple[tuple[float, int], ...]:
    points = [(at, size) for at, size, cpu in trace.memory if cpu == on_cpu]
    before = [size for at, size in points if at < step.start]
    inside = [(at - step.start, size) for at, size in points if step.start <= at < step.end]
    if not inside:
        return ()
    start = before[-1] if before else inside[0][1]
    return _thinned([(0.0, 0), *((at, size - start) for at, size in inside)])


def _thinned(points: list[tuple[float, int]]) -> tuple[tuple[float, int], ...]:
    """The curve with at most twice :data:`BINS` points: of each stretch of time the lowest and the highest."""
    if len(points) <= 2 * BINS:
        return tuple(points)
    last, bins = points[-1][0], dict[int, list[tuple[float, int]]]()
    for point in points:
        bins.setdefault(min(int(point[0] / last * BINS), BINS - 1), []).append(point)
    ends = ({min(own, key=lambda p: p[1]), max(own, key=lambda p: p[1])} for own in bins.values())
    return tuple(sorted(point for own in ends for point in own))
