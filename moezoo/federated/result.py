"""What a simulation returns, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from moezoo.eval.plain import plain
from moezoo.federated.scores import Score


@dataclass(frozen=True)
class RoundResult:
    """A round, judged on the validation images."""

    round: int
    """Counted from 1."""
    clients: tuple[Score, ...]
    """Of each client's whole model after the average, its own local experts in it."""
    server: float | None
    """Accuracy of the shared model, without any local expert; ``None`` where there is no such model."""
    loss: float
    """Of the training, mean over the images of all clients."""
    seconds: float
    failed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Clients whose training or update failed, and why. The round went on without them."""

    @property
    def everywhere(self) -> float:
        """Mean over the clients."""
        return fmean(score.everywhere for score in self.clients)

    @property
    def own(self) -> float:
        """Mean over the clients."""
        return fmean(score.own for score in self.clients)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> RoundResult:
        """From JSON."""
        return RoundResult(**{**values, "clients": tuple(_score(score) for score in values["clients"])})


def _score(values: Mapping[str, Any]) -> Score:
    return Score(**{name: float("nan") if value is None else value for name, value in values.items()})


@dataclass(frozen=True)
class MethodResult:
    """One way of training, after its last round; nothing was chosen by these images."""

    rounds: tuple[RoundResult, ...]
    test: tuple[Score, ...]
    """Of each client's model on the test images."""
    server: float | None
    """The global accuracy: of the shared model, without any local expert; ``None`` where there is no such model."""

    @property
    def everywhere(self) -> float:
        """Accuracy on all test images, mean over the clients' models."""
        return fmean(score.everywhere for score in self.test)

    @property
    def own(self) -> float:
        """Accuracy on test images of the classes in each client's shares, mean over the clients."""
        return fmean(score.own for score in self.test)

    @property
    def failures(self) -> int:
        """Rounds of clients that were left out."""
        return sum(len(each.failed) for each in self.rounds)


@dataclass(frozen=True)
class FederatedResult:
    """What :func:`~moezoo.federated.simulate` found."""

    facts: Mapping[str, Any]
    """What it was about: model, data, clients, rounds."""
    label_names: tuple[str, ...]
    class_counts: tuple[tuple[int, ...], ...]
    """(clients, classes) training images."""
    local_experts: Mapping[str, tuple[int, ...]]
    """Of each MoE layer."""
    sent: Mapping[str, int]
    """Parameters and buffers, in numbers: ``global`` ones that travel, ``local`` ones that stay."""
    methods: Mapping[str, MethodResult]
    """By the names of :data:`~moezoo.federated.config.METHODS`."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        data = dataclasses.asdict(self)
        for name, method in self.methods.items():
            data["methods"][name] |= {
                "everywhere": method.everywhere,
                "own": method.own,
                "failures": method.failures,
            }
        return plain(data)
