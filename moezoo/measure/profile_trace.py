"""A profiler's trace, read back from its file."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.measure.profile_ranges import PREFIX

ON_DEVICE = ("kernel", "gpu_memcpy", "gpu_memset")
LAUNCHES = ("cuda_runtime", "cuda_driver", "privateuse1_runtime")
CPU = 0
"""The number of the CPU among torch's kinds of devices, as traces have it."""


@dataclass(frozen=True)
class Range:
    """One named stretch of time on the host. Milliseconds since the trace's first event."""

    name: tuple[str, ...]
    """Without the prefix: kind, then names."""
    start: float
    ms: float
    device_ms: float
    """Time that the work launched inside took on an accelerator, by whichever thread; 0 on a CPU."""

    @property
    def end(self) -> float:
        return self.start + self.ms

    def holds(self, other: Range) -> bool:
        """Whether ``other`` begins inside."""
        return self.start <= other.start < self.end


@dataclass(frozen=True)
class Trace:
    """What :func:`read_trace` found."""

    ranges: tuple[Range, ...]
    """In order of their start."""
    memory: tuple[tuple[float, int, bool], ...]
    """Whenever memory was taken or given back: time, bytes then allocated, and whether on the CPU."""

    def named(self, *name: str) -> list[Range]:
        """The ranges whose name begins so."""
        return [each for each in self.ranges if each.name[: len(name)] == name]


def read_trace(path: str | Path) -> Trace:
    """Read a trace in Chrome's format, gzipped or not, as ``torch.profiler`` exports it."""
    path = Path(path)
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    timed = [event for event in events if event.get("ph") == "X" or event.get("name") == "[memory]"]
    zero = min((event["ts"] for event in timed), default=0.0)
    launched = sorted(_launched(timed))
    ranges = []
    for event in timed:
        kind, _, rest = event["name"].partition("|")
        # On an accelerator the range has a shadow of its own, on the device's clock.
        if kind == PREFIX and rest and event.get("cat") == "user_annotation":
            begin, end = event["ts"], event["ts"] + event["dur"]
            device = sum(ms for at, ms in launched if begin <= at < end)
            ranges.append(Range(tuple(rest.split("|")), (begin - zero) / 1000, event["dur"] / 1000, device))
    memory = [
        ((event["ts"] - zero) / 1000, event["args"]["Total Allocated"], event["args"]["Device Type"] == CPU)
        for event in timed
        if event.get("name") == "[memory]"
    ]
    return Trace(tuple(sorted(ranges, key=lambda each: (each.start, -each.ms))), tuple(sorted(memory)))


def _launched(events: list[dict[str, Any]]) -> Iterator[tuple[float, float]]:
    """When, on the host, each piece of an accelerator's work was launched, and the milliseconds it took there."""
    launches = {
        event["args"]["correlation"]: event["ts"]
        for event in events
        if event.get("cat") in LAUNCHES and "correlation" in event.get("args", {})
    }
    for event in events:
        if event.get("cat") in ON_DEVICE:
            at = launches.get(event.get("args", {}).get("correlation"))
            if at is not None:
                yield at, event["dur"] / 1000
