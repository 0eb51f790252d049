"""One sighting's spectra as one picture."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from moezoo.errors import InputError
from moezoo.viz.style import to_arrays


def montage(images: Tensor) -> np.ndarray:
    """(H, W, C) of (M, C, H, W) or (C, H, W) pixels in [0, 1]: tall images side by side, wide ones below each other.

    Raises:
        InputError: It has another shape, or not 1 or 3 channels.
    """
    stacked = images.unsqueeze(0) if images.dim() == 3 else images
    if stacked.dim() != 4 or stacked.shape[1] not in (1, 3) or 0 in stacked.shape:
        raise InputError(
            f"a sighting must be (M, C, H, W) or (C, H, W) with 1 or 3 channels, got {tuple(images.shape)}"
        )
    pictures = to_arrays(stacked)
    height, width, channels = pictures.shape[1:]
    tall = height >= width
    side = max(max(height, width) // 40, 1)
    gap = np.ones((height, side, channels) if tall else (side, width, channels), dtype=pictures.dtype)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.concatenate(parts, axis=1 if tall else 0)
