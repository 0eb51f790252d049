"""Images in classes, with sentences about the classes beside them in training, and never when they are judged."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from moezoo.data import Splits
from moezoo.data.text import class_sentences
from moezoo.errors import ConfigError
from moezoo.eval import Evaluation, LayerLoad, classification_metrics
from moezoo.eval.answers import logits_in
from moezoo.eval.reading import class_prototypes, label_text_logits, reads_text, zero_shot_logits
from moezoo.eval.text_report import text_report
from moezoo.train.config import TrainingConfig
from moezoo.train.digest import digest
from moezoo.train.tasks.base import Columns
from moezoo.train.tasks.classify import Classification, Labelled
from moezoo.train.tasks.words import Words, field_of


class Described(NamedTuple):
    """A training batch. What is held out is :class:`Labelled`: there is no text that could give the label away."""

    images: Tensor
    """(B, C, H, W)."""
    labels: Tensor
    """(B,) int64."""
    text: Tensor
    """(B, L) int64, a sentence about each image's class."""
    mask: Tensor
    """(B, L) bool, true where a token is."""


class DescribedClassification(Classification):
    """Cross-entropy of the image alone and, weighted, of image and text together.

    Each image gets one of its class's sentences at random. What brings image and text together, alignment and contrast,
    is part of the model's auxiliary loss. With ``text="shuffled"`` the sentence is of a class drawn at random, and the
    model is not told the labels: whatever text still does then, it does not do by its meaning.
    """

    name = "described classification"

    def __init__(self, model: nn.Module, splits: Splits, config: TrainingConfig):
        if config.mixup or config.cutmix:
            raise ConfigError(
                f"mixup={config.mixup} and cutmix={config.cutmix} do not go with text: no sentence is about a mixed "
                "image. Set both to 0, or training.text=none."
            )
        super().__init__(model, splits, config)
        self.leaves_parameters_out = False
        self.shuffled, self.weight = config.text == "shuffled", config.text_weight
        self.sentences = class_sentences(splits.label_names, config.language)
        self.words = Words(model, lambda: [sentence for own in self.sentences for sentence in own])
        self.rows = [[self.words.ids(sentence) for sentence in own] for own in self.sentences]

    @classmethod
    def fits(cls, model: nn.Module, splits: Any, config: TrainingConfig) -> bool:
        return super().fits(model, splits, config) and reads_text(model) and config.text != "none"

    def item(self, dataset: Any, index: int, item: Any) -> Any:
        image, label = super().item(dataset, index, item)
        return image, label, random.choice(random.choice(self.rows) if self.shuffled else self.rows[int(label)])

    def collate(self, items: Sequence[Any]) -> Any:
        images, labels, rows = zip(*items, strict=True)
        text, mask = self.words.tokenizer.pad(rows)
        plain = super().collate(list(zip(images, labels, strict=True)))
        return Described(plain.images, plain.labels, text, mask)

    def prepare(self, content: Any) -> Any:
        return content

    def forward(self, module: nn.Module, content: Any) -> Any:
        images, labels, text, mask = content
        return module(images, text, mask, labels=None if self.shuffled else labels)

    def loss(self, output: Any, content: Any) -> Tensor:
        alone = self.cross_entropy(field_of(output, "image_logits", self.model_name), content.labels)
        both = logits_in(output, len(content.images), self.model_name)
        return alone + self.weight * self.cross_entropy(both, content.labels)

    def final(self, model: nn.Module) -> Callable[[Labelled], Columns]:
        prototypes = class_prototypes(model, self.sentences)

        def ask(content: Labelled) -> Columns:
            nearest = zero_shot_logits(model, content.images, prototypes)
            return nearest, label_text_logits(model, content.images, content.labels, self.sentences)

        return ask

    def report(self, columns: Columns, final: Columns | None, routing: tuple[LayerLoad, ...]) -> Evaluation:
        assert final is not None
        (logits, labels), (nearest, told) = columns, final
        found = classification_metrics(logits, labels, self.label_names)
        return Evaluation(found, routing, text=text_report(logits, nearest, told, labels))

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **self.words.facts(), "sentences": digest(self.sentences)}
