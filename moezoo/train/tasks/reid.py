"""Finding identities again: learnt as classes and by comparison within a batch, judged by mAP on other identities."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moezoo.data.reid.splits import ReidSplits
from moezoo.errors import ConfigError, InputError
from moezoo.eval import Evaluation, LayerLoad
from moezoo.eval.reading import finds_identities
from moezoo.eval.reid.features import embed_batch
from moezoo.eval.reid.metrics import reid_metrics
from moezoo.eval.reid.report import report_reid
from moezoo.eval.reid.usage import UsageCounter
from moezoo.train.batches import EpochBatches
from moezoo.train.config import TrainingConfig, changed_fields
from moezoo.train.tasks.base import Columns, Judgement, Task, promoted
from moezoo.train.tasks.identity_batches import IdentityBatches
from moezoo.train.tasks.reid_losses import hard_triplet_loss, identity_loss

Pairs = list[tuple[Tensor, Tensor]]
"""(B, identities) scores and (B, D) features, as many pairs as the model is trained by."""

OTHERS_FIELDS = ("mixup", "cutmix", "text", "text_weight", "language")
"""Fields of the configuration that say nothing in re-identification."""


class Seen(NamedTuple):
    """A batch."""

    images: Tensor
    """(B, M, C, H, W), M modalities."""
    identities: Tensor
    """(B,) int64; those of a held-out part have the data set's own numbers, which no model answers with."""


class ReIdentification(Task):
    """The loss of every (score, feature) pair of the model: label-smoothed cross-entropy over the identities of the
    training part, and the soft-margin hard triplet loss within a batch of P identities with K images each; the sum over
    pairs. Its score is the mAP on validation identities.

    A data set without validation identities, as the published protocols want it, has nothing to choose an epoch by: the
    last is kept, and every epoch's score is that of the test, for the log alone.
    """

    name = "re-identification"
    score = "mAP"
    reports_last = True

    def __init__(self, model: nn.Module, splits: ReidSplits, config: TrainingConfig):
        super().__init__(model, splits, config)
        _check(model, splits, config)
        self.identities = splits.num_identities
        self.smoothing, self.instances = config.label_smoothing, config.instances
        self.id_weight, self.triplet_weight = config.id_weight, config.triplet_weight
        self.judged = splits.val if splits.val is not None else splits.test
        self.test = splits.test

    @classmethod
    def fits(cls, model: nn.Module, splits: Any, config: TrainingConfig) -> bool:
        return isinstance(splits, ReidSplits) and finds_identities(model)

    def batches(
        self, dataset: Any, batch_size: int, *, seed: int, rank: int = 0, world: int = 1, least: int = 0
    ) -> EpochBatches:
        # All batches are full, so that `least` has nothing to say.
        return IdentityBatches(dataset.identities, batch_size, self.instances, seed=seed, rank=rank, world=world)

    def item(self, dataset: Any, index: int, item: Any) -> Any:
        return item[:2]

    def collate(self, items: Sequence[Any]) -> Seen:
        return Seen(torch.stack([item[0] for item in items]), torch.tensor([int(item[1]) for item in items]))

    def forward(self, module: nn.Module, content: Seen) -> Pairs:
        return self._pairs(module(content.images), len(content.images))

    def loss(self, output: Pairs, content: Seen) -> Tensor:
        total = torch.zeros((), device=content.images.device)
        for score, feature in output:
            total = total + self.id_weight * identity_loss(promoted(score), content.identities, self.smoothing)
            total = total + self.triplet_weight * hard_triplet_loss(promoted(feature), content.identities)
        return total

    def held_out(self, items: Sequence[Any]) -> Seen:
        return self.collate(items)

    def answer(self, model: nn.Module, content: Seen) -> Columns:
        features, records = embed_batch(model, content.images)
        usage = UsageCounter()
        usage.add(records)
        return features, [usage]

    def judge(self, columns: Columns) -> Judgement:
        features, _ = columns
        if not features.isfinite().all():  # nothing has a rank
            return Judgement(float("nan"), 0.0)
        found = reid_metrics(*self.judged.sides(features), self.judged.protocol)
        return Judgement(float("nan"), found["mAP"])

    def judging(self, part: Any) -> ReIdentification:
        other = copy.copy(self)
        other.judged = part
        return other

    def report(self, columns: Columns, final: Columns | None, routing: tuple[LayerLoad, ...]) -> Evaluation:
        features, usages = columns
        total = UsageCounter()
        for usage in usages:
            total.join(usage)
        return Evaluation(reid=report_reid(features, self.test, usage=total.report()), routing=routing)

    def _pairs(self, output: Any, images: int) -> Pairs:
        """The model's answer, if it is one.

        Raises:
            InputError: It is none.
        """
        pairs = output if isinstance(output, (list, tuple)) else ()
        fine = [
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and all(isinstance(each, Tensor) and each.dim() == 2 and len(each) == images for each in pair)
            and pair[0].shape[1] == self.identities
            for pair in pairs
        ]
        if not pairs or not all(fine):
            raise InputError(
                f"{self.model_name} in training must answer {images} images with pairs of ({images}, "
                f"{self.identities}) scores and ({images}, D) features, got {_told(output)}"
            )
        return list(pairs)


def _told(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, (list, tuple)):
        return f"[{', '.join(map(_told, output))}]"
    return type(output).__name__


def _check(model: nn.Module, splits: ReidSplits, config: TrainingConfig) -> None:
    """Raise :class:`ConfigError` unless they go together."""
    if idle := changed_fields(config, OTHERS_FIELDS):
        raise ConfigError(
            f"{idle} of training does not go with re-identification, which neither mixes images nor reads sentences. "
            "Leave it at its default."
        )
    if config.id_weight == config.triplet_weight == 0:
        raise ConfigError("id_weight=0.0 and triplet_weight=0.0 leave nothing to learn: one of them must be above 0.")
    if splits.val is None and config.early_stopping is not None:
        raise ConfigError(
            f"early_stopping={config.early_stopping} needs validation identities, and {splits.name!r} has none: "
            "--set data.val_identities=N, or early_stopping=null."
        )
    numbers = sorted(set(splits.train.identities.tolist()))
    if numbers != list(range(len(numbers))):
        raise ConfigError(
            f"the identities of the training part of {splits.name!r} must be numbered from 0 to {len(numbers) - 1}, "
            f"got {numbers[0]} to {numbers[-1]}: ReidImages(…, relabel=True)."
        )
    classes = getattr(model, "num_classes", splits.num_identities)
    if classes != splits.num_identities:
        raise ConfigError(
            f"num_classes={classes} does not fit the data set {splits.name!r}, which has {splits.num_identities} "
            f"identities to learn: --set num_classes={splits.num_identities}, or leave it out."
        )
