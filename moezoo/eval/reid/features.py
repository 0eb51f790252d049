"""What a model answers about the images of a re-identification set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, default_collate

from moezoo.errors import InputError
from moezoo.eval.answers import placed
from moezoo.eval.batches import check_some, readable
from moezoo.eval.reid.usage import MoEUsage, UsageCounter
from moezoo.eval.routing import LayerLoad, LoadCounter
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing


@dataclass(frozen=True)
class ReidFeatures:
    """Of N images in a data set's order, on the CPU."""

    features: Tensor
    """(N, D) float32, as the model answers them: not normalised."""
    identities: Tensor
    """(N,) int64, as ``cameras`` and ``scenes``."""
    cameras: Tensor
    scenes: Tensor
    routing: tuple[LayerLoad, ...] = ()
    """One entry per MoE layer; empty for a model without any."""
    usage: tuple[MoEUsage, ...] = ()
    """The same layers' weights."""

    def side(self, rows: Sequence[int] | Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """These images as query or gallery of :func:`reid_metrics`; by default all of them."""
        columns = self.features, self.identities, self.cameras, self.scenes
        return columns if rows is None else tuple(each[torch.as_tensor(rows)] for each in columns)  # type: ignore


def extract_features(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    present: Sequence[bool] | None = None,
    progress: Callable[[int], None] | None = None,
) -> ReidFeatures:
    """Run a model over query or gallery, or a :class:`~moezoo.data.ReidPart` of both.

    The model is run in evaluation mode where it is, and every module is left in the mode it was in.

    Args:
        model: (B, M, C, H, W) images, or (B, C, H, W) where M is 1, to (B, D) features or to a mapping that has them as
            ``features``.
        dataset: Items ``(images (M, C, H, W), identity, camera, scene)``.
        batch_size: Sightings per forward.
        num_workers: Processes that read the images; 0 reads them here.
        present: For each of the M modalities whether the model is shown it; by default all.
        progress: Called after every batch with its number of sightings.

    Raises:
        InputError: The data set is empty, or the model does not answer with (B, D) features.
        UnreadableImage: A file of the data set cannot be read.
    """
    (found,) = extract_each(
        model, dataset, [present], batch_size=batch_size, num_workers=num_workers, progress=progress
    )
    return found


def extract_each(
    model: nn.Module,
    dataset: Dataset,
    views: Sequence[Sequence[bool] | None],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> list[ReidFeatures]:
    """The same for several choices of the modalities that are present; every image is read once."""
    features: list[list[Tensor]] = [[] for _ in views]
    loads, usages = [LoadCounter() for _ in views], [UsageCounter() for _ in views]
    columns: list[list[Tensor]] = []
    with evaluating(model):
        for images, *seen in sighting_batches(dataset, batch_size, num_workers):
            for index, present in enumerate(views):
                answer, records = embed_batch(model, images, present)
                features[index].append(answer)
                loads[index].add(records)
                usages[index].add(records)
            columns.append(seen)
            if progress is not None:
                progress(len(images))
    identities, cameras, scenes = (torch.cat(column) for column in zip(*columns, strict=True))
    return [
        ReidFeatures(torch.cat(own), identities, cameras, scenes, load.report(), usage.report())
        for own, load, usage in zip(features, loads, usages, strict=True)
    ]


def embed_batch(
    model: nn.Module, images: Tensor, present: Sequence[bool] | None = None
) -> tuple[Tensor, list[RoutingRecord]]:
    """(B, D) float32 features on the CPU of (B, M, C, H, W) images, and where the tokens went. Call it under
    :func:`~moezoo.moe.modes.evaluating`.

    Args:
        model: As of :func:`extract_features`.
        images: Of all M modalities; those that are not present are blanked.
        present: As of :func:`extract_features`.

    Raises:
        InputError: The model answers with something else, or ``present`` does not fit the images.
    """
    given: dict[str, Tensor] = {}
    shown = placed(model, images)
    if present is not None and not all(present):
        seen = _seen(present, images).to(shown.device)
        # Whatever the model makes of `present`, it cannot look at what is not there.
        shown = shown * seen[None, :, None, None, None].to(shown.dtype)
        given["present"] = seen.expand(len(images), -1)
    with record_routing(model) as records:
        output = model(shown[:, 0] if images.shape[1] == 1 else shown, **given)
    return features_in(output, len(images), type(model).__name__).float().cpu(), records


def features_in(output: Any, images: int, name: str) -> Tensor:
    """(images, D) features of what the model called ``name`` answered, as they are.

    Raises:
        InputError: There are none.
    """
    features = output.get("features") if isinstance(output, Mapping) else output
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != images:
        got: Any = tuple(features.shape) if isinstance(features, Tensor) else type(output).__name__
        raise InputError(f"{name} must answer {images} sightings with (sightings, D) features, got {got}")
    return features


def sighting_batches(
    dataset: Dataset, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """(B, M, C, H, W) images, and (B,) identities, cameras and scenes, in the data set's order.

    Raises:
        InputError: The data set is empty, or its items are no sightings.
        UnreadableImage: One of its files cannot be read, of a training part too.
    """
    check_some(dataset)
    yield from DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=_collate)


def _collate(items: Sequence[Any]) -> Any:
    for item in readable(items):
        if not isinstance(item, Sequence) or len(item) != 4 or getattr(item[0], "ndim", 0) != 4:
            raise InputError("a sighting must be (images (M, C, H, W), identity, camera, scene): no re-ID data set")
    return default_collate(list(items))


def _seen(present: Sequence[bool], images: Tensor) -> Tensor:
    seen = torch.as_tensor(present)
    if images.dim() != 5 or seen.shape != images.shape[1:2] or seen.dtype != torch.bool or not seen.any():
        raise InputError(
            f"present must be a bool for each of the modalities, at least one of them True, got {list(present)} for "
            f"images {tuple(images.shape)}"
        )
    return seen
