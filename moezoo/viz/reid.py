"""The pictures of a re-identification model."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset

from moezoo.data.reid.splits import ReidPart, ReidSplits
from moezoo.errors import InputError
from moezoo.eval import Evaluation, extract_features, top_matches
from moezoo.eval.explanation.gates import gate_weights_of, scale_names, scale_patterns
from moezoo.viz.cmc import cmc_figure
from moezoo.viz.gallery import GalleryRow, gallery_figure
from moezoo.viz.patterns import activation_patterns_figure
from moezoo.viz.scale_weights import expert_weights_figure
from moezoo.viz.style import Picture

SAMPLE, COLUMNS, MATCHES, QUERIES, OTHERS = 256, 64, 6, 6, 16
"""Sightings whose gates are asked, of them in the heat map; matches and at most so many queries in the gallery; images
of others that a match is held against."""


def reid_figures(
    model: nn.Module, splits: ReidSplits, *, images: int = 8, batch_size: int = 64, protocol: str | None = None
) -> dict[str, Picture]:
    """``gallery``, and of a model with a gate over scales ``expert_weights`` and ``activation_patterns``; of the test.

    Args:
        model: Run in evaluation mode, and left as it was.
        splits: What it was trained on.
        images: Queries in the gallery, at most :data:`QUERIES`.
        batch_size: Sightings per forward.
        protocol: Another rule of :func:`moezoo.eval.reid_metrics` than the data set's.
    """
    part = splits.test
    figures: dict[str, Picture] = {}
    rows = gallery_rows(model, splits, queries=min(images, QUERIES), batch_size=batch_size, protocol=protocol)
    if rows:
        figures["gallery"] = gallery_figure(rows)
    indices = spread_indices(len(part), SAMPLE)
    weights = gate_weights_of(model, Subset(part, indices), batch_size).scales
    if weights is not None:
        names = scale_names(model, weights.shape[-1]) or None
        figures["expert_weights"] = expert_weights_figure(
            weights[spread_indices(len(weights), COLUMNS)],
            scales=names,
            modalities=splits.modalities if len(splits.modalities) > 1 else None,
        )
        patterns = scale_patterns(model, [weights], part, indices, splits.modalities)
        figures["activation_patterns"] = activation_patterns_figure(patterns, title="Use of the scales")
    return figures


def reid_report_figures(report: Evaluation, title: str) -> dict[str, Picture]:
    """``cmc`` of a report on identities found again, with its re-ranked curve where there is one."""
    if report.reid is None or not np.isfinite(report.reid.mAP):
        return {}
    curves = {title: report.reid}
    if report.reid.reranked is not None:
        curves["re-ranked"] = report.reid.reranked
    return {"cmc": cmc_figure(curves)}


def gallery_rows(
    model: nn.Module,
    splits: ReidSplits,
    *,
    queries: int = QUERIES,
    matches: int = MATCHES,
    batch_size: int = 64,
    protocol: str | None = None,
) -> list[GalleryRow]:
    """Queries of the test, evenly spread over those that have a match, with what is nearest to them.

    Args:
        model: As of :func:`moezoo.eval.extract_features`.
        splits: The data set, prepared for the model.
        queries: At most so many rows.
        matches: Of each.
        batch_size: Sightings per forward.
        protocol: As of :func:`reid_figures`.
    """
    part = splits.test
    query, gallery = part.sides(extract_features(model, part, batch_size=batch_size).features)
    found = top_matches(query, gallery, matches, protocol or part.protocol)
    answerable = np.flatnonzero(found.matches > 0)
    rows = []
    for number in answerable[spread_indices(len(answerable), queries)]:
        nearest = [int(i) for i in found.indices[number] if i >= 0]
        own = torch.nn.functional.normalize(query[0][number].double(), dim=0)
        others = torch.nn.functional.normalize(gallery[0][nearest].double(), dim=1)
        places = part.gallery_indices[nearest]
        rows.append(
            GalleryRow(
                query=_pixels(splits, part, int(part.query_indices[number])),
                matches=torch.stack([_pixels(splits, part, int(place)) for place in places]),
                distances=(others - own).square().sum(1).tolist(),
                right=found.right[number][: len(nearest)].tolist(),
                label=_said(part, int(part.query_indices[number])),
                labels=[_said(part, int(place)) for place in places],
            )
        )
    return rows


def right_answers(
    model: nn.Module, splits: ReidSplits, queries: int, *, batch_size: int = 64
) -> tuple[list[str], torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Queries of the test, evenly spread, each with the nearest image that is right, and images of other identities:
    titles and three batches as the model takes them, the last ``None`` where there are no others.

    Raises:
        InputError: No query has a match.
    """
    part = splits.test
    query, gallery = part.sides(extract_features(model, part, batch_size=batch_size).features)
    answerable = np.flatnonzero(top_matches(query, gallery, 1, part.protocol).matches)
    if not len(answerable):
        raise InputError(f"no query of {splits.name} has a match in the gallery: there is no similarity to explain")
    titles, pairs = [], []
    chosen = answerable[spread_indices(len(answerable), queries)]
    # Only of these: rankings of the whole gallery are as large as queries times gallery.
    found = top_matches(tuple(column[chosen] for column in query), gallery, len(gallery[0]), part.protocol)
    for row, number in enumerate(chosen):
        place = int(found.right[row].argmax())
        own, other = int(part.query_indices[number]), int(part.gallery_indices[found.indices[row, place]])
        titles.append(f"{_said(part, own)}, and at rank {place + 1} {_said(part, other)}")
        pairs.append((part.images.image(own), part.images.image(other)))
    who = part.images.identities
    asked = {int(who[part.query_indices[number]]) for number in chosen}
    free = [int(place) for place in part.gallery_indices if int(who[place]) not in asked]
    others = [part.images.image(free[place]) for place in spread_indices(len(free), OTHERS)]
    batches = [torch.stack(list(column)) for column in (*zip(*pairs, strict=True), others) if column]
    images, matches, *against = [each[:, 0] if each.shape[1] == 1 else each for each in batches]
    return titles, images, matches, against[0] if against else None


def spread_indices(number: int, wanted: int) -> list[int]:
    """At most ``wanted`` of the numbers up to ``number``, evenly apart."""
    wanted = min(wanted, number)
    return [place * number // wanted for place in range(wanted)]


def _pixels(splits: ReidSplits, part: ReidPart, index: int) -> torch.Tensor:
    return splits.to_pixels(part.images.image(index))  # type: ignore[arg-type]  # no test image is left out


def _said(part: ReidPart, index: int) -> str:
    images = part.images
    scene = f", scene {images.scenes[index]}" if part.has_scenes else ""
    return f"{images.identities[index]}, camera {images.cameras[index]}{scene}"
