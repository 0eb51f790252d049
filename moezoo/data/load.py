"""Finding a data set by name and preparing it for a model."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from torch import nn

from moezoo.data.captioned import CaptionedSplits
from moezoo.data.options import ImageInput
from moezoo.data.reid.splits import ReidSplits
from moezoo.data.signature import REQUIRED, decode_options, option_names, options_of
from moezoo.data.splits import Splits
from moezoo.errors import ConfigError, RegistrationError
from moezoo.parts import datasets

F = TypeVar("F", bound=Callable[..., Any])

KINDS = (Splits, CaptionedSplits, ReidSplits)
"""What a data set may come as."""


def register_dataset(name: str) -> Callable[[F], F]:
    """Decorator that makes a function's data set known as ``name``.

    The function takes what :func:`input_options` gives, as keywords ``input_size``, ``mean``, ``std`` or in one
    parameter of type :class:`~moezoo.data.ImageInput`, and any options of its own. It returns
    :class:`~moezoo.data.Splits`, :class:`~moezoo.data.CaptionedSplits` or :class:`~moezoo.data.ReidSplits`.

    Raises:
        RegistrationError: ``name`` is taken or malformed.
    """
    return datasets.register(name)


def load_dataset(name: str, **options: Any) -> Any:
    """The data set ``name``, as :class:`~moezoo.data.Splits`, ``CaptionedSplits`` or ``ReidSplits``.

    Args:
        name: A registered name, for example ``digits``; ``moezoo data list`` shows them.
        options: Its options, which ``moezoo data info NAME`` explains; ``**input_options(model, name)`` prepares
            the images for a model.

    Raises:
        UnknownModelError: No such data set; the message has the nearest spelling.
        ConfigError: An option the data set does not have, needs, or does not allow.
        DataError: The data set is missing, incomplete or damaged; the message names the paths looked for.
        RegistrationError: The registered function returns something else.
    """
    load = datasets.get(name)
    splits = load(**decode_options(load, _plain(options), where=f"data set {name!r}"))
    if not isinstance(splits, KINDS):
        raise RegistrationError(
            f"data set {name!r} returned {type(splits).__name__}; it must return moezoo.data.Splits, "
            "CaptionedSplits or ReidSplits"
        )
    return splits


def resolved_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """``options`` of the data set ``name`` with every default filled in, as plain data for a file.

    What a model says about its images (``input_size``, ``mean`` …) is there only if it is among ``options``.

    Raises:
        ConfigError: As :func:`load_dataset`.
    """
    load = datasets.get(name)
    decode_options(load, _plain(options), where=f"data set {name!r}")
    inputs = {field.name for field in dataclasses.fields(ImageInput)}
    filled = {o.name: o.default for o in options_of(load) if o.default is not REQUIRED and o.name not in inputs}
    return json.loads(json.dumps({**filled, **_plain(options)}))


def input_options(model: nn.Module, dataset: str | None = None) -> dict[str, Any]:
    """What ``model`` says about its images, as options of a data set.

    Args:
        model: Has a ``pretrained_cfg``, as every model of moezoo and timm.
        dataset: A registered name. If it takes them, ``interpolation``, ``crop_pct`` and ``crop_mode`` are there too.

    Returns:
        ``input_size`` (C, H, W), ``mean``, ``std``, and what ``dataset`` takes beside.

    Raises:
        ConfigError: ``model`` does not say.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        raise ConfigError(
            f"{type(model).__name__} has no pretrained_cfg that says its input size, mean and std; "
            "pass them to load_dataset."
        )
    options: dict[str, Any] = {key: tuple(cfg[key]) for key in ("input_size", "mean", "std")}
    if dataset is not None:
        takes = option_names(datasets.get(dataset))
        more = ("interpolation", "crop_pct", "crop_mode")
        options.update({key: cfg[key] for key in more if cfg.get(key) and key in takes})
    return options


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: os.fspath(value) if isinstance(value, os.PathLike) else value for key, value in options.items()}
