"""Answers of models that are dataclasses and mappings at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any


class FieldMapping(Mapping[str, Any]):
    """Base of frozen dataclasses that are also mappings of their fields; those that are ``None`` are left out."""

    def __getitem__(self, key: str) -> Any:
        value = getattr(self, key) if key in _names(self) else None
        if value is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in _names(self) if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _names(output: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(output)]
