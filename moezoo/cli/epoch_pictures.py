"""Pictures of the same test images every few epochs, while a model is trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from moezoo.train import EpochMetrics
    from moezoo.viz import Picture

logger = logging.getLogger(__name__)


class EpochPictures:
    """For ``on_epoch`` of :func:`moezoo.train.fit`: ``visualizations/attention_epoch_005.png`` and so on.

    Of a big and a small expert it shows the cells' scores and what was made of them, of other MoE layers the routing;
    of a model that finds identities again what its gate over scales is used for, and how that has changed:
    ``experts_epoch_005.png``.

    Args:
        folder: The run's.
        every: Epochs between two pictures; 0 draws none.
        images: Test images, the same every time.
        layer: MoE layer, a path or its beginning; by default the last three.
        dpi: Pixels per inch.
    """

    def __init__(self, folder: Path, *, every: int, images: int = 8, layer: str | None = None, dpi: int = 160):
        self.folder = folder / "visualizations"
        self.every, self.images, self.layer, self.dpi = every, images, layer, dpi
        self._indices: list[int] = []
        self._gates: list[Any] = []

    def __call__(self, model: nn.Module, splits: Any, metrics: EpochMetrics) -> None:
        from moezoo.hub.files import output_errors
        from moezoo.viz import save_figure

        if not self.every or metrics.epoch % self.every:
            return
        figure = self._draw(model, splits)
        if figure is None:
            logger.warning(
                "no pictures of epochs: the model has neither MoE layers over its images nor gates over scales"
            )
            self.every = 0
            return
        figure.suptitle(f"epoch {metrics.epoch}", fontsize=9.5)
        with output_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        kind = "experts" if self._gates else "attention"
        save_figure(figure, self.folder / f"{kind}_epoch_{metrics.epoch:03d}.png", dpi=self.dpi)

    def _draw(self, model: nn.Module, splits: Any) -> Picture | None:
        from moezoo.data import Splits
        from moezoo.data.reid.splits import ReidSplits
        from moezoo.viz import routing_figure, score_and_routing_figure
        from moezoo.viz.layers import choose_records, split_layers
        from moezoo.viz.look import examples, look, look_at

        if isinstance(splits, ReidSplits):
            return self._draw_gates(model, splits)
        if isinstance(splits, Splits):
            self._indices = self._indices or examples(splits.test, self.images)
            seen = look_at(model, splits, self._indices)
        else:
            seen = look(model, splits, self.images)
        if not seen.records:
            return None
        split, others = split_layers(model, choose_records(model, seen.records, self.layer))
        if split:
            return score_and_routing_figure(seen.pixels, split, titles=seen.titles, wrong=seen.wrong, boxes=seen.boxes)
        return routing_figure(seen.pixels, others, titles=seen.titles, wrong=seen.wrong)

    def _draw_gates(self, model: nn.Module, splits: Any) -> Picture | None:
        from torch.utils.data import Subset

        from moezoo.eval.explanation.gates import gate_weights_of, scale_patterns
        from moezoo.viz import activation_patterns_figure
        from moezoo.viz.reid import SAMPLE, spread_indices

        part = splits.test if splits.val is None else splits.val
        indices = spread_indices(len(part), SAMPLE)
        weights = gate_weights_of(model, Subset(part, indices)).scales
        if weights is None:
            return None
        self._gates.append(weights)
        patterns = scale_patterns(model, self._gates, part, indices, splits.modalities)
        return activation_patterns_figure(patterns, title="Use of the scales")
