"""Which images of which modalities a model is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.errors import InputError


@dataclass(frozen=True)
class Seen:
    """The images of a batch, those of modalities that nobody has left out."""

    images: Tensor
    """(B, m, C, H, W)."""
    columns: tuple[int, ...]
    """The m modalities that they are of."""
    present: Tensor | None
    """(B, M) bool, which modalities each sighting has; ``None``: all."""

    def blank_missing(self, x: Tensor) -> Tensor:
        """(B, M, …) with zeros for missing modalities, whatever was there, NaN included."""
        if self.present is None:
            return x
        return torch.where(self.present.view(*self.present.shape, *(1,) * (x.dim() - 2)), x, 0.0)


def look(
    images: Tensor,
    present: Tensor | None,
    modalities: Sequence[str],
    input_size: tuple[int, int, int],
    *,
    training: bool,
) -> Seen:
    """Check what was given, and leave out the modalities that are missing in the whole batch.

    A compiled or exported graph, which does not look at values, leaves out none.

    Args:
        images: (B, M, C, H, W), or (B, C, H, W) of the first modality alone.
        present: (B, M) bool, or ``None``.
        modalities: The M names.
        input_size: (C, H, W).
        training: Whether all have to be there, as batch statistics need.

    Raises:
        InputError: A shape or type does not fit, or a sighting has no modality.
    """
    M = len(modalities)
    _check_images(images, modalities, input_size)
    alone = images.dim() == 4
    if alone:
        images = images[:, None]
    if training and (present is not None or (alone and M > 1)):
        raise InputError(
            f"training needs the images of all modalities ({', '.join(modalities)}) of every sighting: "
            f"(batch, {M}, {', '.join(map(str, input_size))}) without present=. Missing ones are for evaluation."
        )
    if present is None:
        if not alone or M == 1:
            return Seen(images, tuple(range(M)), None)
        first = torch.arange(M, device=images.device) == 0
        return Seen(images, (0,), first.expand(len(images), M))
    _check_present(present, images.shape[0], modalities)
    present = present.to(images.device)
    if alone and not torch.compiler.is_compiling() and bool(present[:, 1:].any()):
        raise InputError(f"present= says that {modalities[1]} or others are there, but images are of one modality.")
    if torch.compiler.is_compiling() or not len(images):
        return Seen(images, tuple(range(images.shape[1])), present)
    columns = tuple(torch.where(present.any(0))[0].tolist())
    return Seen(images[:, list(columns)], columns, present)


def _check_images(images: Tensor, modalities: Sequence[str], input_size: tuple[int, int, int]) -> None:
    M = len(modalities)
    one = f"(batch, {', '.join(map(str, input_size))})"
    expected = one if M == 1 else f"(batch, {M}, {', '.join(map(str, input_size))})"
    given = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
    if not isinstance(images, Tensor) or images.dim() not in (4, 5):
        raise InputError(f"images must be a tensor of {expected}, modalities {', '.join(modalities)}; got {given}.")
    if not images.is_floating_point():
        raise InputError(f"images must be floating point, got {images.dtype}: scale and normalise them.")
    if images.dim() == 5 and images.shape[1] != M:
        raise InputError(
            f"images must be {expected}, got {given}: wrong number of modalities, they are {', '.join(modalities)}; "
            "modalities= builds a model for others."
        )
    if images.shape[-3] != input_size[0]:
        raise InputError(
            f"images must be {expected}, got {given}: wrong number of channels; in_chans={images.shape[-3]} builds a "
            "model for these."
        )
    if tuple(images.shape[-2:]) != input_size[1:]:
        raise InputError(
            f"images must be {expected}, got {given}: wrong size; img_size={tuple(images.shape[-2:])} builds a model "
            "for these."
        )


def _check_present(present: Tensor, batch: int, modalities: Sequence[str]) -> None:
    if (
        not isinstance(present, Tensor)
        or present.dtype != torch.bool
        or tuple(present.shape) != (batch, len(modalities))
    ):
        given = f"{present.dtype} {tuple(present.shape)}" if isinstance(present, Tensor) else repr(present)
        raise InputError(
            f"present must be a bool tensor of ({batch}, {len(modalities)}), which of {', '.join(modalities)} each "
            f"sighting has; got {given}."
        )
    if torch.compiler.is_compiling():
        return  # one graph serves all values
    empty = torch.where(~present.any(1))[0].tolist()
    if empty:
        raise InputError(f"present: the sightings {empty[:8]} have no modality at all; each needs at least one.")
