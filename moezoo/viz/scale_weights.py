"""The gate's weights, sample by sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moezoo.errors import InputError
from moezoo.eval.explanation.patterns import expert_names
from moezoo.viz.numbers import finite_array
from moezoo.viz.style import INK, MUTED, Picture, new_figure, polish, save_figure

NUMBERED = 24
"""Up to so many samples are numbered each."""


def expert_weights_figure(
    weights: Any,
    *,
    scales: Sequence[Any] | None = None,
    modalities: Sequence[str] | None = None,
    samples: Sequence[str] | None = None,
    title: str = "Weights of the experts",
) -> Picture:
    """A heat map of experts x samples, a panel per spectrum; ten inches by six, in viridis.

    Args:
        weights: (N, E) weights of N samples, or (N, M, E) of M spectra, all at least 0. Tensor, array or lists.
        scales: E names of the experts; whole numbers are scales and read ``4 x 4``. By default the experts' numbers.
        modalities: M names of the panels.
        samples: N names under the columns; by default numbers.
        title: Above the picture.

    Returns:
        With ``data``: ``weights`` (N, M, E) and ``experts``, their names.

    Raises:
        InputError: The shape is another, the names are not so many, or a weight is negative, NaN or infinite.
    """
    array = finite_array("weights", weights, dims=(2, 3))
    if array.min() < 0:
        raise InputError(f"weights must be at least 0, got {array.min():g}")
    if array.ndim == 2:
        array = array[:, None]
    count, panels, experts = array.shape
    names = expert_names(scales, experts)
    if modalities is not None and len(modalities) != panels:
        raise InputError(f"{len(modalities)} modalities {tuple(modalities)} were given for {panels} panels of weights")
    if samples is not None and len(samples) != count:
        raise InputError(f"{len(samples)} names of samples were given for {count} samples")
    figure = new_figure(10, 6)
    axes = figure.subplots(panels, 1, squeeze=False, sharex=True)[:, 0]
    for panel, ax in enumerate(axes):
        image = ax.imshow(
            array[:, panel].T, aspect="auto", cmap="viridis", vmin=0, vmax=array.max() or 1.0, interpolation="nearest"
        )
        last = panel == panels - 1
        heading = title if panel == 0 else ""
        polish(ax, heading, xlabel="sample" if last else "", ylabel=(modalities or ("",) * panels)[panel], grid=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, labelcolor=INK)
        ax.set_yticks(range(experts), names)
    if samples is not None:
        axes[-1].set_xticks(range(count), samples, rotation=90 if count > 8 else 0)
    elif count <= NUMBERED:
        axes[-1].set_xticks(range(count))
    bar = figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02)
    bar.set_label("weight", fontsize=9, color=MUTED)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED)
    bar.outline.set_visible(False)
    figure.data = {"weights": array, "experts": list(names)}
    return figure


def visualize_expert_weights(
    expert_weights: Any, save_path: str | Path, *, scales: Sequence[Any] | None = None, dpi: int = 160, **shown: Any
) -> Path:
    """Write :func:`expert_weights_figure` to a file, and return its path.

    Args:
        expert_weights: (N, E) or (N, M, E).
        save_path: The file; its ending decides the format, PNG without one.
        scales: Names of the experts, of all scales there are.
        dpi: Pixels per inch.
        shown: Further arguments of :func:`expert_weights_figure`.

    Raises:
        InputError: The weights cannot be drawn.
        OutputError: The file cannot be written.
    """
    return save_figure(expert_weights_figure(expert_weights, scales=scales, **shown), save_path, dpi=dpi)
