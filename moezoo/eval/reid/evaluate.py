"""Running a re-identification model over the queries and the gallery of a part."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from moezoo.data.reid.splits import ReidSplits
from moezoo.eval.evaluate import Evaluation
from moezoo.eval.reid.features import extract_features
from moezoo.eval.reid.missing import part_of, present_of
from moezoo.eval.reid.protocols import protocol_of
from moezoo.eval.reid.report import report_reid
from moezoo.eval.reid.rerank import RerankOptions


def evaluate_reid(
    model: nn.Module,
    splits: ReidSplits,
    part: str = "test",
    *,
    rerank: bool | RerankOptions = False,
    missing: str | Sequence[str] | None = None,
    protocol: str | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Find every query of a part again in its gallery, by the rule of the data set.

    Args:
        model: As of :func:`extract_features`. Run in evaluation mode, and left as it was.
        splits: The data set, prepared for the model.
        part: ``"val"`` or ``"test"``.
        rerank: Report the figures after k-reciprocal re-ranking too.
        missing: Modalities that the model is not shown, of query and gallery alike.
        protocol: Another rule of :func:`reid_metrics` than the data set's: ``none`` shows what leaving nothing out
            would claim.
        batch_size: Sightings per forward.
        num_workers: Processes that read the images; 0 reads them here.
        progress: Called after every batch with its number of sightings.

    Raises:
        ConfigError: There is no such part, modality or protocol, or a number is out of range.
        InputError: As of :func:`extract_features`, or a feature is NaN or infinite.
        UnreadableImage: A file of the part cannot be read.
    """
    chosen, present = part_of(splits, part), present_of(missing, splits.modalities)
    protocol_of(protocol or chosen.protocol)  # a misspelt one is found before anything is computed
    found = extract_features(
        model, chosen, batch_size=batch_size, num_workers=num_workers, present=present, progress=progress
    )
    left_out = [name for name, there in zip(splits.modalities, present, strict=True) if not there]
    report = report_reid(found.features, chosen, rerank=rerank, missing=left_out, usage=found.usage, protocol=protocol)
    return Evaluation(reid=report, routing=found.routing)
