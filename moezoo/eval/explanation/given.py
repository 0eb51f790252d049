"""The images whose decisions are to be explained, after the checks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import InputError, NonFiniteError


def check_images(name: str, images: Any) -> None:
    """Raise :class:`InputError` or :class:`NonFiniteError` unless these are prepared images; errors call them
    ``name``."""
    if not isinstance(images, Tensor) or images.dim() not in (4, 5) or 0 in images.shape:
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"{name} must be (B, C, H, W) or (B, M, C, H, W) with B at least 1, got {got}")
    if not images.is_floating_point():
        raise InputError(f"{name} must be floating point, normalised as the model takes them, got {images.dtype}")
    if not bool(images.isfinite().all()):
        raise NonFiniteError(f"{name} must be finite, got NaN or infinity")


def stacked_spectra(images: Tensor) -> Tensor:
    """(B, M, C, H, W) of it or of (B, C, H, W)."""
    return images.unsqueeze(1) if images.dim() == 4 else images


def spectra_there(present: Tensor | None, stacked: Tensor, name: str = "present") -> Tensor:
    """(B, M) bool on the CPU: ``present``, which errors call ``name``, or all.

    Raises:
        InputError: It is of another shape or type, or an image has no spectrum.
    """
    shape = stacked.shape[:2]
    if present is None:
        return torch.ones(shape, dtype=torch.bool)
    if not isinstance(present, Tensor) or present.shape != shape or present.dtype != torch.bool:
        got = (present.dtype, tuple(present.shape)) if isinstance(present, Tensor) else type(present).__name__
        raise InputError(f"{name} must be {tuple(shape)} bool, whether each image has each spectrum; got {got}")
    if not bool(present.any(1).all()):
        raise InputError(f"{name}: an image without any spectrum has nothing to explain")
    return present.cpu()


def spectrum_names(model: nn.Module, number: int) -> tuple[str, ...]:
    """What the model calls the first ``number`` of its spectra."""
    names = tuple(str(name) for name in getattr(model, "modalities", None) or ())
    if len(names) >= number:
        return names[:number]
    return ("image",) if number == 1 else tuple(f"spectrum {m}" for m in range(number))
