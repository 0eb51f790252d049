"""How a model takes worse images: its accuracy, and whether its tokens still go to the same experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from moezoo.eval.answers import answered, logits_of
from moezoo.eval.batches import check_some, labelled_batches
from moezoo.eval.corruptions import CORRUPTIONS, Corruption, corrupt
from moezoo.eval.routing import first_expert
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing


@dataclass(frozen=True)
class Corrupted:
    """One corruption over all images. Values are fractions."""

    kind: str
    severity: int
    """Counted from 1, the mildest."""
    what: str
    """The corruption with its strength."""
    top1: float
    kept: float
    """Images whose predicted class is that of the clean image, right or wrong."""
    rerouted: Mapping[str, float]
    """MoE layer to the tokens whose first expert is another than for the clean image."""

    @property
    def mean_rerouted(self) -> float | None:
        """Mean over the layers; ``None`` without any."""
        return sum(self.rerouted.values()) / len(self.rerouted) if self.rerouted else None


@dataclass(frozen=True)
class Robustness:
    """What :func:`robustness` found, all in one pass over the same images."""

    samples: int
    clean_top1: float
    seed: int
    corrupted: tuple[Corrupted, ...]


def robustness(
    model: nn.Module,
    dataset: Dataset,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    corruptions: Mapping[str, Sequence[Corruption]] = CORRUPTIONS,
    seed: int = 0,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Robustness:
    """Classify every image clean and under every corruption.

    The images are brought back to pixels, made worse and normalised again. What an image gets depends on ``seed`` and
    its index alone, not on the batches.

    Args:
        model: (B, C, H, W) images to (B, classes) logits, or to a mapping that has them as ``logits``.
            It is run in evaluation mode, and left as it was.
        dataset: Items ``(image, label)``, normalised by ``mean`` and ``std``.
        mean: Subtracted from pixels in [0, 1], per channel or one for all.
        std: Then divided by.
        corruptions: Kind to functions from mild to strong, (C, H, W) pixels to pixels of the same shape.
        seed: Of the noise and the directions.
        batch_size: Images per forward.
        num_workers: Processes that read the images; 0 reads them here.
        progress: Called with a batch's number of images after each forward: once clean, once per corruption.

    Raises:
        InputError: The data set is empty, or the model does not answer with (B, classes) logits.
    """
    check_some(dataset)
    shift, scale = (torch.tensor(tuple(values), dtype=torch.float32).view(-1, 1, 1) for values in (mean, std))
    cases = [(kind, i, each) for kind, severities in corruptions.items() for i, each in enumerate(severities, start=1)]
    tallies = [_Tally() for _ in cases]
    samples = clean_right = 0
    with evaluating(model):
        for images, labels in labelled_batches(dataset, batch_size, num_workers):
            # Far apart, so that two seeds do not give the same noise to neighbouring images.
            seeds = [seed * 1_000_003 + index for index in range(samples, samples + len(images))]
            clean, clean_routing = _answer(model, images, progress)
            clean_right += int((clean == labels).sum())
            pixels = (images * scale + shift).clamp(0, 1)
            for (_, _, corruption), tally in zip(cases, tallies, strict=True):
                worse = (corrupt(pixels, corruption, seeds) - shift) / scale
                predicted, routing = _answer(model, worse, progress)
                tally.add(predicted, labels, clean, routing, clean_routing)
            samples += len(images)
    return Robustness(
        samples=samples,
        clean_top1=clean_right / samples,
        seed=seed,
        corrupted=tuple(
            Corrupted(kind, severity, str(each), tally.right / samples, tally.kept / samples, tally.rerouted())
            for (kind, severity, each), tally in zip(cases, tallies, strict=True)
        ),
    )


class _Tally:
    """Sums over the batches of one corruption."""

    def __init__(self) -> None:
        self.right = self.kept = 0
        self._moved: dict[str, int] = {}
        self._tokens: dict[str, int] = {}

    def add(
        self,
        predicted: Tensor,
        labels: Tensor,
        clean: Tensor,
        routing: list[RoutingRecord],
        before: list[RoutingRecord],
    ) -> None:
        self.right += int((predicted == labels).sum())
        self.kept += int(((predicted == clean) & (clean >= 0)).sum())
        for now, then in zip(routing, before, strict=True):
            moved = first_expert(now.routing) != first_expert(then.routing)
            self._moved[now.name] = self._moved.get(now.name, 0) + int(moved.sum())
            self._tokens[now.name] = self._tokens.get(now.name, 0) + len(moved)

    def rerouted(self) -> dict[str, float]:
        return {name: moved / max(self._tokens[name], 1) for name, moved in self._moved.items()}


def _answer(
    model: nn.Module, images: Tensor, progress: Callable[[int], None] | None
) -> tuple[Tensor, list[RoutingRecord]]:
    """(B,) predicted classes, -1 where the logits are no answer, and the routing."""
    with record_routing(model) as records:
        logits = logits_of(model, images)
    if progress is not None:
        progress(len(images))
    return torch.where(answered(logits), logits.argmax(-1), -1), records
