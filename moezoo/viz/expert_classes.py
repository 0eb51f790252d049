"""Which experts the images of each class go to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.routing import image_shares
from moezoo.moe.record import RoutingRecord
from moezoo.viz.grid import layer_label
from moezoo.viz.style import INK, MUTED, Picture, new_figure, polish

NAMED, NUMBERED = 40, 12
"""Up to so many classes are named, and so many experts have their shares written."""
BLUES = LinearSegmentedColormap.from_list("share", ["#ffffff", "#56b4e9", "#0072b2", "#08304f"])


class ClassShares:
    """Adds up, over many batches, of each class's tokens the share that every expert gets."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self._sums: dict[str, Tensor] = {}
        self._images: dict[str, Tensor] = {}

    def add(self, records: Iterable[RoutingRecord], labels: Tensor) -> None:
        """Count the first call of each layer whose tokens lie on the images ``labels`` (B,) are of."""
        labels = labels.cpu()
        for record in records:
            shares = image_shares(record.routing, len(labels))
            if record.grid is None or record.call or shares is None:
                continue
            sums = torch.zeros(self.num_classes, shares.shape[1], dtype=torch.float64).index_add(0, labels, shares)
            seen = torch.bincount(labels, minlength=self.num_classes)
            self._sums[record.name] = self._sums.get(record.name, 0) + sums
            self._images[record.name] = self._images.get(record.name, 0) + seen

    def report(self) -> dict[str, np.ndarray]:
        """Of each layer (classes, E): a row sums to 1, and is NaN for a class without an image."""
        return {name: (sums / self._images[name][:, None]).numpy() for name, sums in self._sums.items()}


def class_information(share: np.ndarray) -> float:
    """Bits that the expert of a token tells about its class, were all classes equally many; 0 is no specialisation.

    Args:
        share: (classes, E), rows summing to 1; rows of NaN are left out.
    """
    share = share[~np.isnan(share).any(1)]
    mean = share.mean(0)
    ratio = np.divide(share, mean, out=np.ones_like(share), where=share > 0)
    return float((share * np.log2(ratio)).sum() / max(len(share), 1))


def expert_classes_figure(
    shares: Mapping[str, np.ndarray],
    label_names: Sequence[str],
    *,
    expert_names: Mapping[str, Sequence[str]] | None = None,
) -> Picture:
    """A panel per layer: classes as rows, experts as columns, darker where more of the class's tokens go.

    Args:
        shares: Layer to (classes, E), of :meth:`ClassShares.report`.
        label_names: Of the classes.
        expert_names: Layer to the names of its experts, where these say more than numbers.

    Returns:
        With ``data["shares"]`` as given, ``data["labels"]`` and ``data["information"]``: layer to
        :func:`class_information`.

    Raises:
        InputError: There is no layer, or the names do not fit.
    """
    if not shares:
        raise InputError("expert_classes_figure needs at least one MoE layer")
    classes = len(label_names)
    for name, share in shares.items():
        if share.ndim != 2 or len(share) != classes:
            raise InputError(f"shares[{name!r}] must be ({classes}, experts), got {share.shape}")
    highest = max(float(np.nanmax(share)) for share in shares.values())
    widths = [max(2.2, 0.42 * share.shape[1]) for share in shares.values()]
    figure = new_figure(sum(widths) + 1.6 * len(widths), min(2.0 + 0.27 * classes, 12))
    axes = figure.subplots(1, len(shares), squeeze=False, width_ratios=widths, sharey=True)[0]
    information = {name: class_information(share) for name, share in shares.items()}
    for ax, (name, share) in zip(axes, shares.items(), strict=True):
        image = ax.imshow(share, cmap=BLUES, vmin=0, vmax=highest, aspect="auto", interpolation="nearest")
        polish(ax, layer_label(name), xlabel=f"expert, tells {information[name]:.2f} bits of the class", grid=False)
        ax.spines[:].set_visible(False)
        ax.tick_params(length=0, labelcolor=INK)
        if share.shape[1] <= 16:
            ax.set_xticks(range(share.shape[1]), (expert_names or {}).get(name))
        if classes <= NAMED and share.shape[1] <= NUMBERED:
            _write(ax, share, highest)
    if classes <= NAMED:
        axes[0].set_yticks(range(classes), label_names)
    axes[0].set_ylabel("class", fontsize=9.5, color=MUTED)
    bar = figure.colorbar(image, ax=list(axes), fraction=0.04, pad=0.02)
    bar.set_label("share of the class's tokens", fontsize=9, color=MUTED)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED)
    bar.outline.set_visible(False)
    figure.data = {"shares": dict(shares), "labels": list(label_names), "information": information}
    return figure


def _write(ax: Axes, share: np.ndarray, highest: float) -> None:
    for (row, column), value in np.ndenumerate(share):
        if value > 0.005:
            color = "white" if value > 0.55 * highest else INK
            ax.text(column, row, f"{value:.0%}", ha="center", va="center", fontsize=8, color=color)
