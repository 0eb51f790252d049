"""Images and sentences that belong together: the contrastive loss, judged by the recall of finding one by the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.data import CaptionedSplits
from moezoo.eval import Evaluation, LayerLoad, retrieval_metrics
from moezoo.eval.answers import placed
from moezoo.eval.part import writes_captions
from moezoo.eval.reading import encode_images, reads_text
from moezoo.train.config import TrainingConfig
from moezoo.train.tasks.base import Columns, Judgement
from moezoo.train.tasks.captioned import Captioned, CaptionedTask
from moezoo.train.tasks.words import field_of

TEMPERATURE = 0.07
"""Of the validation loss alone, so that it means the same in every epoch and run; the model's own is learnt."""


class Pairs(NamedTuple):
    """A batch of a held-out part: all captions of every image."""

    images: Tensor
    """(B, C, H, W)."""
    text: Tensor
    """(M, L) int64, image after image."""
    mask: Tensor
    """(M, L) bool."""
    counts: Tensor
    """(B,) captions of each image."""
    captions: list[str]
    """M sentences."""


class Retrieval(CaptionedTask):
    """The loss is the model's auxiliary one alone, of which contrast and alignment are a part.

    The contrast is over the pairs of one forward in one process: neither accumulation nor further processes give an
    image more sentences to be told from; a larger ``batch_size`` does. The score is the mean recall at 1 both ways
    over all captions of the part.
    """

    name = "retrieval"
    score = "recall_at_1"
    leaves_parameters_out = True  # those of a fusion, which retrieval does not ask for anything

    @classmethod
    def fits(cls, model: nn.Module, splits: Any, config: TrainingConfig) -> bool:
        return isinstance(splits, CaptionedSplits) and reads_text(model) and not writes_captions(model)

    def loss(self, output: Any, content: Captioned) -> Tensor:
        # Shown, and without a gradient: it is in the auxiliary loss already.
        return field_of(output, "contrastive_loss", self.model_name).detach() * len(content.images)

    def held_out(self, items: Sequence[Any]) -> Pairs:
        captions = [sentence for _, own in items for sentence in own]
        text, mask = self.words.tokenizer.pad([self.words.ids(sentence) for sentence in captions])
        counts = torch.tensor([len(own) for _, own in items])
        return Pairs(torch.stack([image for image, _ in items]), text, mask, counts, captions)

    def answer(self, model: nn.Module, content: Pairs) -> Columns:
        images = encode_images(model, content.images)
        device = placed(model, content.images[:0]).device
        texts = model.encode_text(content.text.to(device), content.mask.to(device))  # type: ignore[operator]
        return images, texts.float().cpu(), content.counts, content.captions

    def judge(self, columns: Columns) -> Judgement:
        images, texts, counts, captions = columns
        if not (images.isfinite().all() and texts.isfinite().all()):  # nothing has a rank
            return Judgement(float("nan"), 0.0)
        found = retrieval_metrics(images, texts, _owners(counts), captions)
        cosines = F.normalize(texts, dim=-1) @ F.normalize(images, dim=-1).T
        return Judgement(float(F.cross_entropy(cosines / TEMPERATURE, _owners(counts))), found.mean_recall_at_1)

    def report(self, columns: Columns, final: Columns | None, routing: tuple[LayerLoad, ...]) -> Evaluation:
        images, texts, counts, captions = columns
        return Evaluation(retrieval=retrieval_metrics(images, texts, _owners(counts), captions), routing=routing)


def _owners(counts: Tensor) -> Tensor:
    """(M,) the image of each sentence."""
    return torch.repeat_interleave(torch.arange(len(counts)), counts)
