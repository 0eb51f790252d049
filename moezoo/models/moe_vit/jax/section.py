"""Reading a nested configuration strictly: every key is asked for, or refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

MISSING: Any = object()


class Section:
    """A mapping of somebody else's configuration.

    Args:
        values: The mapping, or what ``to_dict`` makes one of (``ml_collections.ConfigDict``); ``None`` is an empty one.
        place: Its name, for messages.
    """

    def __init__(self, values: Any, place: str):
        if callable(make := getattr(values, "to_dict", None)):
            values = make()
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(f"{place}={values!r:.80} is not allowed: it must be a mapping.")
        self.values = {str(key): value for key, value in (values or {}).items()}
        self.place = place
        self.known: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def take(self, key: str, default: Any, *kinds: type) -> Any:
        """The value of ``key``, of one of these types; a whole number is a ``float`` too, a ``bool`` no number."""
        self.known.add(key)
        value = self.values.get(key, default)
        if value is MISSING:
            raise ConfigError(f"{self.place}.{key} is missing.")
        if value is default:
            return value
        if isinstance(value, np.generic):
            value = value.item()
        if float in kinds and type(value) is int:
            return float(value)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            allowed = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ConfigError(f"{self.place}.{key}={value!r:.80} is not allowed: it must be {allowed}.")
        return value

    def section(self, key: str) -> Section:
        """The mapping under ``key``; an empty one where there is none."""
        self.known.add(key)
        return Section(self.values.get(key), f"{self.place}.{key}")

    def ignore(self, *keys: str) -> None:
        """Keys that say nothing about what a trained model computes."""
        self.known.update(keys)

    def refuse(self, key: str, why: str) -> None:
        """Raise for a value of ``key`` that cannot be had here."""
        raise ConfigError(f"{self.place}.{key}={self.values.get(key)!r:.80} is not allowed: {why}")

    def done(self) -> None:
        """Raise for keys that nobody asked for."""
        for key in self.values:
            if key not in self.known:
                known = ", ".join(sorted(self.known))
                raise ConfigError(f"{self.place}: unknown key {key!r}.{did_you_mean(key, self.known)} Known: {known}.")
