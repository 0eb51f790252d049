"""The registries of a model's parts and of data sets: names that refuse to be taken twice. No torch here."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from moezoo.errors import RegistrationError, UnknownModelError
from moezoo.names import did_you_mean, natural_key

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PART_NAME = re.compile(r"[a-z0-9][a-z0-9_\-]*", re.IGNORECASE)
"""What a registered name, and each part of a model's name, is made of."""


class Registry(Generic[T]):
    """Names of one ``kind`` of thing. Values may be ``"module:attribute"`` strings, imported when first asked for."""

    def __init__(self, kind: str):
        self.kind = kind
        self._items: dict[str, T | str] = {}

    def add(self, name: str, value: T | str) -> None:
        """Register ``value``; raises :class:`RegistrationError` when ``name`` is taken."""
        if not isinstance(name, str) or not PART_NAME.fullmatch(name):
            raise RegistrationError(f"{self.kind} name {name!r} must be letters, digits, '_' or '-'")
        if name in self._items:
            raise RegistrationError(f"{self.kind} {name!r} is already registered")
        self._items[name] = value

    def register(self, name: str) -> Callable[[F], F]:
        """Decorator form of :meth:`add`."""

        def decorate(value: F) -> F:
            self.add(name, value)  # type: ignore[arg-type]
            return value

        return decorate

    def get(self, name: str) -> T:
        """The value under ``name``; raises :class:`UnknownModelError` with the nearest spelling."""
        if not isinstance(name, str) or name not in self._items:
            raise UnknownModelError(
                f"unknown {self.kind} {name!r}.{did_you_mean(name, self._items)} Known: {', '.join(self) or 'none'}."
            )
        value = self._items[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            value = self._items[name] = getattr(importlib.import_module(module), attribute)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._items, key=natural_key))

    def __contains__(self, name: object) -> bool:
        return name in self._items


adapters: Registry[Any] = Registry("adapter")
datasets: Registry[Any] = Registry("data set")
metrics: Registry[Any] = Registry("metric")
aggregators: Registry[Any] = Registry("aggregator")
# An adapter is found by its name before any model family has been imported.
adapters.add("entity", "moezoo.models.entity_moe.adapter:ENTITY")
adapters.add("token_routing", "moezoo.backbones.tokens.route:TOKEN_ROUTING")
for _name, _loader in {
    "digits": "digits:load_digits_splits",
    "cifar10": "cifar:load_cifar10",
    "cifar100": "cifar:load_cifar100",
    "fashion_mnist": "fashion_mnist:load_fashion_mnist",
    "image_folder": "image_folder:load_image_folder",
    "hf": "hub_datasets:load_hf",
    "flickr8k": "flickr8k:load_flickr8k",
    "market1501": "reid.market1501:load_market1501",
    "rgbnt201": "reid.rgbnt201:load_rgbnt201",
    "rgbnt100": "reid.rgbnt100:load_rgbnt100",
    "msvr310": "reid.msvr310:load_msvr310",
    "cluttered_digits": "generated.cluttered_digits:load_cluttered_digits",
    "shapes": "generated.shapes:load_shapes",
    "trispectral": "generated.trispectral:load_trispectral",
}.items():
    datasets.add(_name, f"moezoo.data.{_loader}")
for _name, _aggregator in {
    "concat": "concat:Concat",
    "mean": "means:Mean",
    "weighted_mean": "means:WeightedMean",
    "attention_pool": "means:AttentionPool",
}.items():
    aggregators.add(_name, f"moezoo.models.attention_routing.aggregators.{_aggregator}")
for _metric in ("balanced_accuracy", "macro_f1", "brier_score"):
    metrics.add(_metric, f"moezoo.eval.metrics:{_metric}")
