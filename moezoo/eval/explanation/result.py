"""Why a model decided as it did, as plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from moezoo.eval.explanation.faithfulness import Faithfulness
from moezoo.eval.explanation.region import Region
from moezoo.eval.explanation.wording import sentences
from moezoo.eval.plain import plain


@dataclass(frozen=True)
class ExpertPart:
    """What one expert did for one image."""

    layer: str
    expert: int
    label: str
    """``4 x 4 windows``, ``TIR`` or the expert's number."""
    kind: str
    """``scale``, ``modality`` or ``expert``: what the experts of this layer are for."""
    weight: float | None
    """Its share of the layer's weights, of 1; ``None`` where the tokens cannot be told apart by image."""
    effect: float
    """By how much the score falls without its results."""


@dataclass(frozen=True)
class ModalityPart:
    """What one spectrum did for one image."""

    name: str
    present: bool
    effect: float
    """By how much the score falls when all of it is erased."""
    weight: float | None = None
    """What a gate over modalities gave it, where the model has one."""
    scale_weights: tuple[float, ...] | None = None
    """What a gate over scales gave each of them in this spectrum, where the model has one."""


@dataclass(frozen=True)
class Case:
    """One image's decision."""

    decision: str
    """In words."""
    unit: str
    """Of the score and of all effects."""
    score: float
    """Of the whole image."""
    modalities: tuple[ModalityPart, ...]
    experts: tuple[ExpertPart, ...]
    """Of all MoE layers, in their order."""
    region: Region | None
    """The part of the image that counts most; ``None`` where no cell speaks for the decision."""
    saliency: tuple[tuple[tuple[float, ...], ...], ...]
    """Modalities x rows x columns: what each cell counts for the decision, below 0 against it."""
    faithfulness: Faithfulness

    @property
    def modality(self) -> ModalityPart:
        """The spectrum without which the score falls most, of those that are there."""
        return max((each for each in self.modalities if each.present), key=lambda each: each.effect)

    @property
    def expert(self) -> ExpertPart | None:
        """The expert without which the score falls most; ``None`` of a model without MoE layers."""
        return max(self.experts, key=lambda each: each.effect, default=None)

    @property
    def scale(self) -> ExpertPart | None:
        """The same among the experts of scales; ``None`` where there are none."""
        scales = [each for each in self.experts if each.kind == "scale"]
        return max(scales, key=lambda each: each.effect, default=None)

    def text(self) -> str:
        """A few plain sentences."""
        return " ".join(sentences(self))


@dataclass(frozen=True)
class Explanation:
    """The decisions about B images, each explained."""

    method: str
    """How cells were weighed."""
    fill: str
    """What stood in erased cells."""
    cases: tuple[Case, ...]
    scales: tuple[str, ...] = ()
    """Of a model with a gate over scales, their names."""

    def __len__(self) -> int:
        return len(self.cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __getitem__(self, index: int) -> Case:
        return self.cases[index]

    def text(self) -> str:
        """A paragraph for every image."""
        if len(self.cases) == 1:
            return self.cases[0].text()
        return "\n\n".join(f"Image {number}: {case.text()}" for number, case in enumerate(self.cases))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data, with each case's sentences as ``text``; a figure that does not exist is ``None``."""
        data = dataclasses.asdict(self)
        for told, case in zip(data["cases"], self.cases, strict=True):
            told["text"] = case.text()
            told["faithfulness"]["faithful"] = case.faithfulness.faithful
        return plain(data)
