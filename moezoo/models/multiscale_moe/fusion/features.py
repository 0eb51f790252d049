"""What the fusions are given: lists of features of equal shape, checked once and put into one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.moe.checks import check_int


def check_scales(scales: object) -> tuple[int, ...]:
    """``scales`` as a tuple of whole numbers, none of them twice."""
    if isinstance(scales, (str, bytes)) or not isinstance(scales, Sequence) or not scales:
        raise ConfigError(f"scales={scales!r} is not allowed: it must list window sizes, for example (4, 8, 16).")
    found = tuple(check_int("scales", scale, low=1) for scale in scales)
    if len(set(found)) < len(found):
        raise ConfigError(f"scales={found} is not allowed: a scale is there twice.")
    return found


def check_modalities(modalities: object) -> tuple[str, ...]:
    """``modalities`` as a tuple of names, none of them twice."""
    if isinstance(modalities, (str, bytes)) or not isinstance(modalities, Sequence) or not modalities:
        raise ConfigError(f"modalities={modalities!r} is not allowed: it must list names, for example ('RGB', 'NIR').")
    for name in modalities:
        if not isinstance(name, str) or not name:
            raise ConfigError(f"modalities={tuple(modalities)} is not allowed: {name!r} is no name.")
    if len(set(modalities)) < len(modalities):
        raise ConfigError(f"modalities={tuple(modalities)} is not allowed: a name is there twice.")
    return tuple(modalities)


def checked(features: Sequence[Tensor], names: Sequence[str], dim: int, argument: str = "features") -> list[Tensor]:
    """``features`` as a list of (B, ``dim``) tensors, one for each of ``names``.

    Raises:
        InputError: One is missing, or has another width, batch, device or kind of number than the rest.
    """
    if isinstance(features, Tensor) or not isinstance(features, Sequence):
        got = f"a tensor {tuple(features.shape)}" if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"{argument} must be a list of {len(names)} tensors (B, {dim}), one per input, got {got}")
    if len(features) != len(names):
        raise InputError(f"{argument} must hold {len(names)} tensors ({', '.join(names)}), got {len(features)}")
    for i, feature in enumerate(features):
        if not isinstance(feature, Tensor):
            raise InputError(f"{argument}[{i}] ({names[i]}) must be a tensor (B, {dim}), got {type(feature).__name__}")
        if feature.dim() != 2 or feature.shape[1] != dim or not feature.is_floating_point():
            raise InputError(
                f"{argument}[{i}] ({names[i]}) must be floating-point (B, {dim}), got {feature.dtype} "
                f"{tuple(feature.shape)}"
            )
        if feature.shape[0] != features[0].shape[0]:
            raise InputError(
                f"{argument} must be of one batch: {argument}[0] has {features[0].shape[0]} rows, {argument}[{i}] "
                f"({names[i]}) {feature.shape[0]}"
            )
        if feature.device != features[0].device or feature.dtype != features[0].dtype:
            raise InputError(
                f"{argument} must be on one device and of one dtype: {argument}[0] is {features[0].dtype} on "
                f"{features[0].device}, {argument}[{i}] ({names[i]}) {feature.dtype} on {feature.device}"
            )
    return list(features)


def as_rows(x: Tensor, dim: int, taker: nn.Module) -> Tensor:
    """(T, ``dim``) of (..., ``dim``).

    Raises:
        InputError: The width is another, or x is no tensor.
    """
    if not isinstance(x, Tensor) or not x.dim() or x.shape[-1] != dim:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"{type(taker).__name__} takes (..., {dim}), got {got}")
    return x.reshape(-1, dim)


def check_present(present: Tensor | None, batch: int, names: Sequence[str], device: torch.device) -> Tensor | None:
    """``present`` if it is (B, M) bool: which of the M modalities each sample has.

    Raises:
        InputError: It is something else. That a sample has none is found by the router.
    """
    if present is None:
        return None
    fits = isinstance(present, Tensor) and present.dtype == torch.bool and present.shape == (batch, len(names))
    if not fits or present.device != device:
        got = f"{present.dtype} {tuple(present.shape)} on {present.device}" if isinstance(present, Tensor) else present
        raise InputError(
            f"present must be bool {(batch, len(names))} on {device}, one column for each of {', '.join(names)}, "
            f"got {got}"
        )
    return present
