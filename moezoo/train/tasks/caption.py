"""Saying what an image shows: the next token's cross-entropy, judged by how many of them are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.data import CaptionedSplits
from moezoo.errors import ConfigError
from moezoo.eval import Evaluation, LayerLoad, caption_metrics
from moezoo.eval.answers import placed
from moezoo.eval.captioned import as_decoded, greedy
from moezoo.eval.part import writes_captions
from moezoo.train.config import TrainingConfig
from moezoo.train.tasks.base import Columns, Judgement, promoted
from moezoo.train.tasks.captioned import Captioned, CaptionedTask
from moezoo.train.tasks.words import field_of


class Referenced(NamedTuple):
    """A batch of a held-out part."""

    images: Tensor
    """(B, C, H, W)."""
    text: Tensor
    """(B, L) int64, the first caption of each image."""
    mask: Tensor
    """(B, L) bool."""
    references: list[tuple[str, ...]]
    """All captions of each."""


class Captioning(CaptionedTask):
    """The loss is the mean over an image's tokens, then over images; padding is no token.

    The score is the share of the next tokens that are right, each after the true ones before it (teacher forcing), over
    the first caption of every validation image: it costs one forward, where writing a caption costs one per token.
    The test writes captions, token by token, the most probable each time.
    """

    name = "captioning"
    score = "token_accuracy"

    def __init__(self, model: nn.Module, splits: CaptionedSplits, config: TrainingConfig):
        if config.parallel == "fsdp" or config.expert_parallel > 1:
            raise ConfigError(
                f"parallel={config.parallel!r} with expert_parallel={config.expert_parallel} does not go with "
                "captioning: processes that share one model would have to write captions of the same length. Take "
                "parallel='ddp' and expert_parallel=1."
            )
        super().__init__(model, splits, config)
        self.smoothing = config.label_smoothing

    @classmethod
    def fits(cls, model: nn.Module, splits: Any, config: TrainingConfig) -> bool:
        return isinstance(splits, CaptionedSplits) and writes_captions(model)

    def loss(self, output: Any, content: Captioned) -> Tensor:
        losses, real = self._next_tokens(output, content.text, content.mask, self.smoothing)
        return (losses.sum(1) / real.sum(1).clamp(min=1)).sum()

    def held_out(self, items: Sequence[Any]) -> Referenced:
        text, mask = self.words.tokenizer.pad([self.words.ids(own[0]) for _, own in items])
        return Referenced(torch.stack([image for image, _ in items]), text, mask, [own for _, own in items])

    def answer(self, model: nn.Module, content: Referenced) -> Columns:
        images = placed(model, content.images)
        text, mask = content.text.to(images.device), content.mask.to(images.device)
        output = model(images, text, mask)
        losses, real = self._next_tokens(output, text, mask)
        right = (field_of(output, "logits", self.model_name)[:, :-1].argmax(-1) == text[:, 1:]) & real
        return losses.sum(1).cpu(), right.sum(1).cpu(), real.sum(1).cpu()

    def _next_tokens(self, output: Any, text: Tensor, mask: Tensor, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """(B, L - 1) cross-entropy of each token from the second on, 0 where it is padding; and where it is not."""
        logits = promoted(field_of(output, "logits", self.model_name)[:, :-1])
        real = mask[:, 1:]
        losses = F.cross_entropy(logits.transpose(1, 2), text[:, 1:], label_smoothing=smoothing, reduction="none")
        return losses.where(real, 0.0), real

    def judge(self, columns: Columns) -> Judgement:
        losses, right, tokens = (column.sum() for column in columns)
        return Judgement(float(losses / tokens), float(right / tokens))

    def final(self, model: nn.Module) -> Callable[[Referenced], Columns]:
        options = greedy(model)

        def write(content: Referenced) -> Columns:
            images = placed(model, content.images)
            written = model.caption(images, **options) if len(images) else []  # type: ignore[operator]
            return written, content.references

        return write

    def report(self, columns: Columns, final: Columns | None, routing: tuple[LayerLoad, ...]) -> Evaluation:
        assert final is not None
        found = caption_metrics(*final, normalize=as_decoded(self.words.tokenizer))
        return Evaluation(captions=found, routing=routing)
