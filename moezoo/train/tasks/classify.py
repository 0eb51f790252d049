"""Images in classes: cross-entropy, judged by the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

from moezoo.data import Splits
from moezoo.errors import DataError
from moezoo.eval import Evaluation, LayerLoad, classification_metrics
from moezoo.eval.answers import logits_in, logits_of
from moezoo.eval.part import writes_captions
from moezoo.eval.reading import finds_identities, reads_text
from moezoo.train.augment import build_mixer
from moezoo.train.batches import describe
from moezoo.train.config import TrainingConfig
from moezoo.train.tasks.base import Columns, Judgement, Task, promoted


class Labelled(NamedTuple):
    """A batch of a classification data set."""

    images: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B,) int64, or (B, classes) soft targets where images were mixed."""


class Classification(Task):
    """The model answers with (B, classes) logits, or with a mapping that has them as ``logits``."""

    name = "classification"
    score = "accuracy"

    def __init__(self, model: nn.Module, splits: Splits, config: TrainingConfig):
        super().__init__(model, splits, config)
        self.label_names = splits.label_names
        self.smoothing = config.label_smoothing
        self.mixer = build_mixer(config, splits.num_classes)
        self.leaves_parameters_out = reads_text(model)

    @classmethod
    def fits(cls, model: nn.Module, splits: Any, config: TrainingConfig) -> bool:
        return isinstance(splits, Splits) and not writes_captions(model) and not finds_identities(model)

    def item(self, dataset: Any, index: int, item: Any) -> Any:
        if not 0 <= int(item[1]) < len(self.label_names):
            raise DataError(
                f"{describe(dataset, index)} of the training data has the label {item[1]!r}; labels go from "
                f"0 to {len(self.label_names) - 1}"
            )
        return item

    def collate(self, items: Sequence[Any]) -> Labelled:
        return Labelled(*default_collate(list(items)))

    def prepare(self, content: Labelled) -> Labelled:
        return Labelled(*self.mixer(*content)) if self.mixer else content

    def forward(self, module: nn.Module, content: Labelled) -> Tensor:
        return logits_in(module(content.images), len(content.images), self.model_name)

    def loss(self, output: Tensor, content: Labelled) -> Tensor:
        return self.cross_entropy(output, content.labels)

    def cross_entropy(self, logits: Tensor, targets: Tensor) -> Tensor:
        """() summed over the images; soft targets are smoothed already."""
        smoothing = 0.0 if self.mixer else self.smoothing
        return F.cross_entropy(promoted(logits), targets, label_smoothing=smoothing, reduction="sum")

    def held_out(self, items: Sequence[Any]) -> Labelled:
        return Labelled(*default_collate(list(items)))

    def answer(self, model: nn.Module, content: Labelled) -> Columns:
        return logits_of(model, content.images), content.labels

    def judge(self, columns: Columns) -> Judgement:
        logits, labels = columns
        found = classification_metrics(logits, labels)
        return Judgement(found.loss, found.top1)

    def report(self, columns: Columns, final: Columns | None, routing: tuple[LayerLoad, ...]) -> Evaluation:
        logits, labels = columns
        return Evaluation(classification_metrics(logits, labels, self.label_names), routing)
