"""How well the identities of a part are found again, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from moezoo.data.reid.splits import ReidPart
from moezoo.errors import InputError
from moezoo.eval.reid.metrics import ReidMetrics, reid_metrics
from moezoo.eval.reid.rerank import RerankOptions
from moezoo.eval.reid.usage import MoEUsage


@dataclass(frozen=True)
class ReidReport:
    """Shares are fractions of the queries that have a match, NaN where none has one."""

    mAP: float  # noqa: N815
    mINP: float  # noqa: N815
    r1: float
    """Share of the queries whose first image is right."""
    r5: float
    """With a right one among the first 5, or the whole gallery if that is smaller."""
    r10: float
    cmc: tuple[float, ...]
    """At index k - 1: with a right one among the first k."""
    num_queries: int
    num_valid_queries: int
    """Those with a match; the others are in no figure."""
    num_gallery: int
    protocol: str
    """The rule of :func:`reid_metrics`."""
    missing: tuple[str, ...] = ()
    """Modalities that the model was not shown, of query and gallery alike."""
    reranked: ReidReport | None = None
    """The same features after k-reciprocal re-ranking, where that was asked for."""
    usage: tuple[MoEUsage, ...] = ()
    """How the model's gates used their experts, over query and gallery."""


def report_reid(
    features: Tensor,
    part: ReidPart,
    *,
    rerank: bool | RerankOptions = False,
    missing: Sequence[str] = (),
    usage: Sequence[MoEUsage] = (),
    protocol: str | None = None,
) -> ReidReport:
    """The report of features that are there already.

    Args:
        features: (N, D), of all images of ``part`` in its order.
        part: Who is seen on them, and which are queries.
        rerank: Report the figures after re-ranking too.
        missing: Modalities that the features are without.
        usage: Of the gates that gave them.
        protocol: Another rule of :func:`reid_metrics` than the data set's.

    Raises:
        InputError: There are not N features, or one is NaN or infinite.
        ConfigError: A number of the re-ranking is out of range, or there is no such protocol.
    """
    rule = protocol or part.protocol
    if len(features) != len(part):
        raise InputError(f"{len(part)} images need as many features, got {tuple(features.shape)}")
    query, gallery = part.sides(features)

    def report(metrics: ReidMetrics, reranked: ReidReport | None = None, used: Sequence[MoEUsage] = ()) -> ReidReport:
        curve = metrics["cmc"]
        r1, r5, r10 = (curve[min(k, len(curve)) - 1] for k in (1, 5, 10))
        return ReidReport(
            mAP=metrics["mAP"],
            mINP=metrics["mINP"],
            r1=r1,
            r5=r5,
            r10=r10,
            cmc=tuple(curve),
            num_queries=metrics["num_queries"],
            num_valid_queries=metrics["num_valid_queries"],
            num_gallery=part.num_gallery,
            protocol=rule,
            missing=tuple(missing),
            reranked=reranked,
            usage=tuple(used),
        )

    again = report(reid_metrics(query, gallery, rule, rerank=rerank)) if rerank else None
    return report(reid_metrics(query, gallery, rule), again, usage)
