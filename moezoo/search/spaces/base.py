"""A design space: what may be chosen, and how a choice becomes a model that can be trained."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from moezoo.search.choosing import Chooser
from moezoo.train import TrainingConfig
from moezoo.train.tasks import AnySplits

Values = Mapping[str, Any]
"""Plain JSON-like data: what was chosen, by name."""
Relation = Callable[[Values], bool]


@dataclass(frozen=True)
class Design:
    """One model of a space."""

    space: str
    values: Values

    @property
    def key(self) -> str:
        """The same for the same design, different for others; makes a folder's name."""
        text = json.dumps([self.space, self.values], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def words(self) -> str:
        """``widths 24-56, bottleneck 1``: the values in one line."""
        return ", ".join(f"{name.rpartition('.')[2]} {_words(value)}" for name, value in self.values.items())


class Prepared(NamedTuple):
    """All that :func:`moezoo.train.fit` needs."""

    model: nn.Module
    splits: AnySplits
    training: TrainingConfig


class Space(ABC):
    """A set of designs."""

    name: str
    epochs: int
    """Of a short training, unless said otherwise."""
    help: str
    """One line about what is in it."""
    relations: Mapping[str, Relation]
    """Constraints that go by a name, such as ``widths_increase``."""
    options: Mapping[str, Sequence[Any]] = MappingProxyType({})
    """What a field may be, of those that are chosen from a list."""

    @abstractmethod
    def draw(self, choose: Chooser) -> dict[str, Any] | None:
        """The values of one design as ``choose`` has it; ``None`` where they do not go together."""

    @abstractmethod
    def fields(self) -> Sequence[str]:
        """The names of a design's values, for constraints."""

    @abstractmethod
    def on_meta(self, values: Values, assignments: Sequence[str] = ()) -> nn.Module:
        """The model without memory for weights, with a ``pretrained_cfg`` that says what its images are.

        Raises:
            ConfigError: The values, or ``assignments``, are not allowed.
        """

    @abstractmethod
    def check(self, values: Values, assignments: Sequence[str] = ()) -> None:
        """Raise :class:`ConfigError` where :meth:`prepare` would, as far as that shows without building or loading."""

    @abstractmethod
    def prepare(self, values: Values, assignments: Sequence[str] = ()) -> Prepared:
        """The model with fresh weights, its data and how it is trained.

        Args:
            values: Of a design.
            assignments: ``training.key=value`` and ``data.key=value``, as ``moezoo train --set`` takes them.

        Raises:
            ConfigError: The values, or ``assignments``, are not allowed.
        """

    def command(self, values: Values) -> str | None:
        """What trains this design in full, where there is such a command."""
        return None


def _words(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "-".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
