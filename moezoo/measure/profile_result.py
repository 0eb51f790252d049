"""What a profile says, as plain data, all of it read off a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Span:
    """Something that takes time in every step."""

    name: str
    ms: float
    """Per step, on the host's clock."""
    device_ms: float
    """Per step, what it launched on an accelerator; 0 on a CPU."""
    calls: float
    """Per step."""


@dataclass(frozen=True)
class MoESpan:
    """What one MoE layer does in every step. As of :class:`Span`, but for the names."""

    layer: str
    what: str
    """router, dispatch, experts, combine, shared, or the name of an expert beside the layer."""
    during: str
    """The phase it happens in: ``forward``, or ``backward`` where activation checkpointing runs it again."""
    ms: float
    device_ms: float
    calls: float


WHAT = ("router", "dispatch", "experts", "combine", "shared")
"""What MoE layers do, in this order."""


def what_layers_do(spans: Iterable[MoESpan]) -> list[str]:
    """Everything that ``spans`` are about: :data:`WHAT` in its order, then the experts beside the layers."""
    found = dict.fromkeys(span.what for span in spans)
    return [*(what for what in WHAT if what in found), *(what for what in found if what not in WHAT)]


@dataclass(frozen=True)
class ExpertSpan:
    """One expert alone, on the rows that a forward gave it."""

    layer: str
    expert: int
    rows: float
    """Per step."""
    ms: float
    device_ms: float


@dataclass(frozen=True)
class StepProfile:
    """A step of inference or of training, mean over the steps that were traced."""

    mode: str
    """``inference`` or ``training``."""
    steps: int
    ms: float
    phases: tuple[Span, ...]
    """forward; in training also loss, backward and optimizer."""
    parts: tuple[Span, ...]
    """Of the forward, by the model's top-level parts; the last is what is in none of them."""
    moe: tuple[MoESpan, ...]
    memory: tuple[tuple[float, int], ...]
    """Of the last step: milliseconds since its beginning, and bytes allocated above those at its beginning."""
    marks: tuple[tuple[str, float, float], ...]
    """Of the last step: its phases, from when to when."""
    trace: str
    """The file."""

    @property
    def peak_memory(self) -> int:
        """The most bytes above those at the beginning of the step."""
        return max((size for _, size in self.memory), default=0)


@dataclass(frozen=True)
class Profile:
    """A model's profile."""

    name: str
    device: str
    dtype: str
    batch_size: int
    input: tuple[tuple[int, ...], ...]
    """Shapes of what the model was given."""
    processor: str
    cores: int
    threads: int
    torch: str
    inference: StepProfile
    training: StepProfile | None
    """``None`` where no parameter learns."""
    experts: tuple[ExpertSpan, ...]

    def time_of(self, span: Span | MoESpan | ExpertSpan) -> float:
        """Milliseconds that count: an accelerator's own where there is one, since the host only launches its work."""
        return span.ms if self.device == "cpu" else span.device_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return dataclasses.asdict(self)
