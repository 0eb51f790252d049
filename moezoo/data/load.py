"""Finding a data set by name and preparing it for a model."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from torch import nn

from moezoo.config import STRICT, decode
from moezoo.data.splits import Splits
from moezoo.errors import ConfigError, RegistrationError
from moezoo.parts import datasets

F = TypeVar("F", bound=Callable[..., Splits])


def register_dataset(name: str) -> Callable[[F], F]:
    """Decorator that makes a function's data set known as ``name``.

    The function takes at least the keywords of :func:`input_options` (``input_size``, ``mean``, ``std``), any
    options of its own with defaults, and returns :class:`Splits`.

    Raises:
        RegistrationError: ``name`` is taken or malformed.
    """
    return datasets.register(name)


def load_dataset(name: str, **options: Any) -> Splits:
    """The data set ``name`` in train, validation and test parts.

    Args:
        name: A registered name, for example ``digits``.
        options: Its options; ``**input_options(model)`` prepares the images for a model.

    Raises:
        UnknownModelError: No such data set; the message has the nearest spelling.
        ConfigError: An option the data set does not have, or a value it does not allow.
        RegistrationError: The registered function does not return :class:`Splits`.
    """
    load = datasets.get(name)
    splits = load(**_decode_options(name, load, options))
    if not isinstance(splits, Splits):
        raise RegistrationError(
            f"data set {name!r} returned {type(splits).__name__}; it must return moezoo.data.Splits"
        )
    return splits


def input_options(model: nn.Module) -> dict[str, Any]:
    """The image size (C, H, W), mean and standard deviation ``model`` expects, as options of a data set."""
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        raise ConfigError(
            f"{type(model).__name__} has no pretrained_cfg that says its input size, mean and std; "
            "pass them to load_dataset."
        )
    return {key: tuple(cfg[key]) for key in ("input_size", "mean", "std")}


def _decode_options(name: str, load: Callable[..., Splits], options: dict[str, Any]) -> dict[str, Any]:
    """The options checked against the function's own signature, by the rules every configuration follows."""
    parameters = inspect.signature(load).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return options
    hints = get_type_hints(load)
    fields = [
        (
            p.name,
            hints.get(p.name, Any),
            dataclasses.field(default=None if p.default is p.empty else p.default),
        )
        for p in parameters
    ]
    cls = dataclasses.make_dataclass("Options", fields, frozen=True, namespace={"__pydantic_config__": STRICT})
    decoded: Any = decode(cls, options, where=f"data set {name!r}")
    return {key: getattr(decoded, key) if key in hints else value for key, value in options.items()}
