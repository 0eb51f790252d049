"""Aggregators: from the embeddings of the cells to one vector. Others are added with :func:`register_aggregator`."""

from __future__ import annotations

from moezoo.models.attention_routing.aggregators.base import Aggregator
from moezoo.parts import aggregators

register_aggregator = aggregators.register
"""Decorator for :class:`Aggregator` subclasses; the name is what the configuration's ``aggregator`` takes."""


def build_aggregator(name: str, dim: int, num_cells: int, out_dim: int) -> Aggregator:
    """The registered aggregator ``name``.

    Raises:
        UnknownModelError: There is none of this name.
    """
    return aggregators.get(name)(dim, num_cells, out_dim)


__all__ = ["Aggregator", "build_aggregator", "register_aggregator"]
