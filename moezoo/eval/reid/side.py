"""The query or the gallery of an evaluation: features, and who was seen where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.reid.protocols import Protocol


@dataclass(frozen=True)
class Side:
    """N images."""

    features: Tensor
    """(N, D) float64 of length 1, or 0 where a model answered zeros."""
    identities: np.ndarray
    """(N,) int64."""
    places: np.ndarray
    """(N,) int64: cameras or scenes, whichever the protocol asks for."""

    def __len__(self) -> int:
        return len(self.identities)


def side_of(given: Sequence[Any], name: str, protocol: Protocol) -> Side:
    """``(features, identities, cameras[, scenes])`` after the checks; ``name`` is what an error calls it.

    Raises:
        InputError: Something is missing, of another shape or type, or a feature is NaN or infinite.
    """
    if not isinstance(given, Sequence) or not 3 <= len(given) <= 4:
        raise InputError(f"{name} must be (features, identities, cameras) or (…, scenes), got {_shown(given)}")
    features = unit_features(given[0], f"{name} features")
    columns = [whole_numbers(x, f"{name} {what}") for x, what in zip(given[1:], COLUMNS, strict=False)]
    for column, what in zip(columns, COLUMNS, strict=False):
        if column.shape != (len(features),):
            raise InputError(f"{name}: {len(features)} features need as many {what}, got {column.shape}")
    if protocol.same == "scene" and (len(columns) < 3 or (columns[2] < 0).all()):
        raise InputError(f"{name} has no scenes: this protocol takes (features, identities, cameras, scenes)")
    return Side(features, columns[0], columns[2] if protocol.same == "scene" else columns[1])


COLUMNS = ("identities", "cameras", "scenes")


def unit_features(given: Any, name: str) -> Tensor:
    """(N, D) float64 of length 1; a row of zeros stays one.

    Raises:
        InputError: It is no such matrix, is empty, or holds NaN or infinity.
    """
    try:
        features = torch.as_tensor(given).detach()
    except (TypeError, ValueError):
        raise InputError(f"{name} must be numbers in equally long rows, got {type(given).__name__}") from None
    if features.dim() != 2 or not features.numel() or features.is_complex():
        raise InputError(f"{name} must be (N, D), got {tuple(features.shape)} {features.dtype}")
    bad = int((~features.isfinite().all(-1)).sum())
    if bad:
        raise InputError(f"{bad} of {len(features)} {name} hold NaN or infinity, so that they have no rank")
    device = "cpu" if features.device.type == "mps" else features.device  # which has no float64
    features = features.to(device, torch.float64, copy=True)
    # In place, for there may be 100,000. First by the largest value: the same direction gives the same numbers.
    for order in (float("inf"), 2.0):
        length = torch.linalg.vector_norm(features, order, dim=-1, keepdim=True)
        features.div_(torch.where(length == 0, 1.0, length))
    return features


def whole_numbers(given: Any, name: str) -> np.ndarray:
    """(N,) int64.

    Raises:
        InputError: They are no whole numbers.
    """
    try:
        values = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    except ValueError:
        raise InputError(f"{name} must be whole numbers, got rows of different lengths") from None
    if values.dtype.kind not in "iub" and values.size:
        raise InputError(f"{name} must be whole numbers, got {values.dtype}")
    return values.astype(np.int64)


def _shown(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, Sequence) else type(given).__name__
