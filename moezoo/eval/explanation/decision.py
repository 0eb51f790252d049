"""What is explained: the class that a classifier chose, or how like its match a sighting is."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError, NonFiniteError
from moezoo.eval.answers import logits_in, placed
from moezoo.eval.reid.features import features_in


class Decision(ABC):
    """A number for every image, the higher the surer the model is of the same decision as of the whole image.

    Args:
        model: In evaluation mode.
        present: (B, M) bool, for a model that can do without a modality.
    """

    unit = ""
    """What ``score`` is measured in."""

    def __init__(self, model: nn.Module, present: Tensor | None):
        self.model, self.present = model, present

    @abstractmethod
    def score(self, images: Tensor, rows: Tensor) -> Tensor:
        """(n,) of n images, each a variant of image ``rows[i]``; differentiable."""

    def degree(self, score: Tensor) -> Tensor:
        """The score as a share of 1, for curves."""
        return score

    @abstractmethod
    def says(self, row: int, score: float) -> str:
        """What was decided, in words."""

    def output(self, images: Tensor, present: Tensor | None) -> Any:
        """What the model answers."""
        images = placed(self.model, images)
        return self.model(images) if present is None else self.model(images, present=present.to(images.device))

    def present_in(self, rows: Tensor) -> Tensor | None:
        """(n, M) bool of variants of these images."""
        return None if self.present is None else self.present[rows.to(self.present.device)]


class ClassDecision(Decision):
    """The log odds of a class: its logit against all others together.

    Args:
        model: In evaluation mode.
        images: (B, M, C, H, W), or (B, C, H, W) of a model of one modality.
        present: As of :class:`Decision`.
        target: Class of each image or of all; by default the predicted ones.
        label_names: Of all classes; by default the model's, if it has so many.
        batch_size: Images per forward.
    """

    unit = "log odds"

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        present: Tensor | None = None,
        target: int | Sequence[int] | None = None,
        label_names: Sequence[Any] | None = None,
        batch_size: int = 32,
    ):
        super().__init__(model, present)
        logits = by_batch(self._logits, images, present, batch_size)
        if not bool(logits.isfinite().any(1).all()) or bool(logits.isnan().any()):
            raise NonFiniteError("the model's answer is not finite (NaN): there is no decision to explain")
        self.target = _targets(target, logits)
        if label_names is not None and len(label_names) != logits.shape[1]:
            raise ConfigError(
                f"label_names: {len(label_names)} names are not allowed: the model has {logits.shape[1]} classes."
            )
        names = label_names if label_names is not None else getattr(model, "label_names", None)
        self.names = names if names is not None and len(names) == logits.shape[1] else None

    def score(self, images: Tensor, rows: Tensor) -> Tensor:
        logits = self._logits(images, self.present_in(rows))
        chosen = self.target.to(logits.device)[rows.to(logits.device), None]
        own = logits.gather(1, chosen)[:, 0]
        if logits.shape[1] == 1:
            return own
        return own - logits.scatter(1, chosen, -torch.inf).logsumexp(1)

    def degree(self, score: Tensor) -> Tensor:
        return score.sigmoid()

    def says(self, row: int, score: float) -> str:
        index = int(self.target[row])
        name = f"class {index}"
        if self.names is not None and str(self.names[index]) != str(index):
            name = f"{self.names[index]!s} ({name})"
        return f"{name}, probability {float(torch.tensor(score).sigmoid()):.3f}"

    def _logits(self, images: Tensor, present: Tensor | None) -> Tensor:
        return logits_in(self.output(images, present), len(images), type(self.model).__name__).float()


class SimilarityDecision(Decision):
    """The cosine between the features of an image and those of its match, or without one of the whole image itself.

    The mean cosine to ``against`` is taken off, so that what all images have in common counts nothing.

    Args:
        model: In evaluation mode.
        images: (B, M, C, H, W), or (B, C, H, W) of a model of one modality.
        present: As of :class:`Decision`.
        match: Like ``images``.
        match_present: (B, M) bool, of ``match``.
        against: Like ``images`` but for B.
        batch_size: Images per forward.
    """

    unit = "similarity"

    def __init__(
        self,
        model: nn.Module,
        images: Tensor,
        present: Tensor | None = None,
        match: Tensor | None = None,
        match_present: Tensor | None = None,
        against: Tensor | None = None,
        batch_size: int = 32,
    ):
        super().__init__(model, present)
        self.matched, self.others = match is not None, 0 if against is None else len(against)
        like, there = (images, present) if match is None else (match, match_present)
        self.reference = F.normalize(by_batch(self._features, like, there, batch_size), dim=-1)
        if against is not None:
            others = by_batch(self._features, against, None, batch_size)
            self.reference = self.reference - F.normalize(others, dim=-1).mean(0)
        if not bool(self.reference.isfinite().all()):
            raise NonFiniteError("the model's features are not finite (NaN): there is no decision to explain")

    def score(self, images: Tensor, rows: Tensor) -> Tensor:
        features = F.normalize(self._features(images, self.present_in(rows)), dim=-1)
        return (features * self.reference[rows.to(features.device)]).sum(-1)

    def says(self, row: int, score: float) -> str:
        if self.others:
            what = "like its match" if self.matched else "like itself"
            others = "another" if self.others == 1 else f"{self.others} others"
            return f"more {what} than like {others}, by a cosine of {score:.3f} in the mean"
        if self.matched:
            return f"similarity to its match {score:.3f}"
        return "its features (no match was given: how alike they stay)"

    def _features(self, images: Tensor, present: Tensor | None) -> Tensor:
        return features_in(self.output(images, present), len(images), type(self.model).__name__).float()


def by_batch(
    answer: Callable[[Tensor, Tensor | None], Tensor], images: Tensor, present: Tensor | None, batch_size: int
) -> Tensor:
    """``answer(images, present)``, so many images at a time."""
    parts = images.split(batch_size)
    there: Sequence[Tensor | None] = [None] * len(parts) if present is None else present.split(batch_size)
    return torch.cat([answer(some, own) for some, own in zip(parts, there, strict=True)])


def _targets(target: Any, logits: Tensor) -> Tensor:
    """(B,) int64 classes to explain, by default the predicted ones."""
    images, classes = logits.shape
    if target is None:
        return logits.argmax(1).cpu()
    try:
        chosen = [operator.index(each) for each in (target if np.ndim(target) else [target] * images)]
    except TypeError:  # 1.5 is no class
        chosen = []
    if len(chosen) != images or not all(0 <= each < classes for each in chosen):
        raise ConfigError(
            f"target={target!r} is not allowed: it must be a class from 0 to {classes - 1}, or one for each of "
            f"{images} images."
        )
    return torch.tensor(chosen)
