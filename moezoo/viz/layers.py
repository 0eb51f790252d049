"""Which MoE layers a picture is of."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe.layer import MoELayer
from moezoo.moe.record import RoutingRecord
from moezoo.moe.routers import SplitRouter
from moezoo.names import did_you_mean
from moezoo.viz.cells import CellScores, cell_scores

LAYERS = 3
"""Without a choice, pictures of layers show at most this many of the last ones."""


def choose_records(model: nn.Module, records: Sequence[RoutingRecord], layer: str | None) -> list[RoutingRecord]:
    """Those of ``layer``, a path or its beginning; by default the last three.

    Raises:
        ConfigError: ``layer`` is no MoE layer of the model, or none of the layers looked for was recorded on a grid.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, MoELayer)]
    known = f"Layers: {', '.join(names) or 'none'}."
    if layer is None:
        if not records:
            raise ConfigError(f"the model has no MoE layer whose tokens lie on a grid. {known}")
        return list(records[-LAYERS:])
    if not any(_is(name, layer) for name in names):
        raise ConfigError(f"layer={layer!r} is no MoE layer of the model.{did_you_mean(layer, names)} {known}")
    found = [record for record in records if _is(record.name, layer)]
    if not found:
        raise ConfigError(
            f"layer={layer!r} cannot be drawn over images: its tokens do not lie on a grid. Those of these layers do: "
            f"{', '.join(record.name for record in records) or 'none'}."
        )
    return found


def over_images(records: Sequence[RoutingRecord]) -> list[RoutingRecord]:
    """The first call of each layer whose tokens lie on the images."""
    return [record for record in records if record.grid is not None and record.call == 0]


def split_layers(model: nn.Module, records: Sequence[RoutingRecord]) -> tuple[list[CellScores], list[RoutingRecord]]:
    """What the layers among ``records`` decided that have a big and a small expert, and the records of the others."""
    names = {
        name
        for name, module in model.named_modules()
        if isinstance(module, MoELayer) and isinstance(module.router, SplitRouter)
    }
    return (
        [cell_scores(record) for record in records if record.name in names],
        [record for record in records if record.name not in names],
    )


def _is(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")
