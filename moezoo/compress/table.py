"""A model and what was made of it, side by side: size, time, FLOPs, score, and the experts that tokens go to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from moezoo.compress.size import size_of
from moezoo.errors import ConfigError
from moezoo.hub.state import portable_state
from moezoo.measure import latency
from moezoo.measure.calling import call, fit_input
from moezoo.measure.flops import flops
from moezoo.moe.modes import evaluating
from moezoo.moe.record import record_routing


@dataclass(frozen=True)
class Compared:
    """One model of a :func:`compression_table`."""

    name: str
    bytes: int
    """Of the stored tensors."""
    file_bytes: int
    """Of a safetensors file of them."""
    weights: int
    """Numbers that were learnt."""
    times_smaller: float
    """The first model's file by this one's."""
    milliseconds: float
    """Median time of the batch."""
    p95: float
    speedup: tuple[float, float, float]
    """The first model's time by this one's in the same round: median, and the middle half of the rounds."""
    flops: float
    """Executed for one image. A multiply-add is 2, in whole numbers too."""
    score: float | None
    same_experts: float | None
    """Share of the tokens that go to the very experts they go to in the first model; ``None`` where nothing is routed,
    or the numbers of experts differ."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return asdict(self)


def compression_table(
    models: Mapping[str, nn.Module],
    images: Tensor,
    *,
    judge: Callable[[nn.Module], float] | None = None,
    rounds: int = 30,
) -> list[Compared]:
    """Measure models against the first of them, timed interleaved in one run.

    Args:
        models: By name; all take ``images``.
        images: (B, …) to time, count and route.
        judge: From a model to its score, higher being better.
        rounds: Timed calls of each.

    Raises:
        ConfigError: There are no models.
    """
    if not models:
        raise ConfigError("models is empty: a table needs at least one.")
    first = next(iter(models))
    times = latency(models, images, rounds=rounds, baseline=first)
    files = {name: len(save(portable_state(model))) for name, model in models.items()}
    chosen = {name: _experts_of_tokens(model, images) for name, model in models.items()}
    rows = []
    for name, model in models.items():
        size, time = size_of(model), times[name]
        assert time.ratio is not None
        assert time.ratio_low is not None
        assert time.ratio_high is not None
        rows.append(
            Compared(
                name=name,
                bytes=size.bytes,
                file_bytes=files[name],
                weights=size.weights,
                times_smaller=files[first] / files[name],
                milliseconds=time.p50,
                p95=time.p95,
                speedup=(1 / time.ratio, 1 / time.ratio_high, 1 / time.ratio_low),
                flops=flops(model, images).executed / len(images),
                score=None if judge is None else judge(model),
                same_experts=_agreement(chosen[first], chosen[name]),
            )
        )
    return rows


def _experts_of_tokens(model: nn.Module, images: Tensor) -> list[Tensor]:
    """(T, E) bool of every MoE call: which experts a token went to."""
    with evaluating(model), record_routing(model) as records:
        call(model, fit_input(model, images))
    found = []
    for record in records:
        routing = record.routing
        if routing.slots is not None:  # experts that get mixtures of tokens: no token goes anywhere
            continue
        went = torch.zeros(routing.num_tokens, routing.num_experts, dtype=torch.bool)
        live = ~routing.dropped.cpu()
        went[routing.token_index.cpu()[live], routing.expert_index.cpu()[live]] = True
        found.append(went)
    return found


def _agreement(ours: list[Tensor], theirs: list[Tensor]) -> float | None:
    if not ours or [t.shape for t in ours] != [t.shape for t in theirs]:
        return None
    same = torch.cat([(a == b).all(1) for a, b in zip(ours, theirs, strict=True)])
    return float(same.double().mean())
