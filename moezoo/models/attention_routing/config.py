"""Configuration of attention routing. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Len, Lt

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.own_images import OwnImages
from moezoo.names import did_you_mean
from moezoo.parts import aggregators

# The bounds are sanity checks on configurations that come from elsewhere: nothing that large is meant.
Count: TypeAlias = Annotated[int, Ge(1), Le(65536)]
Layers: TypeAlias = Annotated[int, Ge(1), Le(64)]
Share: TypeAlias = Annotated[float, Ge(0.0), Le(1.0)]
Positive: TypeAlias = Annotated[float, Gt(0.0), Le(1000.0)]
PerChannel: TypeAlias = Annotated[tuple[float, ...], Len(1, 1024)]


def dotted(*paths: str) -> tuple[str, ...]:
    """The document's dotted paths to a field, with and without their first word."""
    return tuple(name for path in paths for name in (path, path.partition(".")[2]) if name)


@dataclass(frozen=True)
class AttentionRoutingConfig(OwnImages):
    """A light encoder scores the cells of an image; those above a threshold meet a big MLP, the others a small one."""

    __pydantic_config__ = STRICT

    img_size: Count | tuple[Count, Count] = option(
        32, "side of the image, or (height, width)", alias=("input_size", "dataset.input_size")
    )
    patch_grid_size: Count | tuple[Count, Count] = option(
        4, "cells along each side, or (rows, columns); divides the image", alias=("dataset.patch_grid_size",)
    )
    in_channels: Annotated[int, Ge(1), Le(1024)] = option(3, "channels of the image", alias="in_chans")
    num_classes: Annotated[int, Ge(0), Le(1_000_000)] = option(10, "classes; 0 builds no classifier")
    encoder_channels: Count = option(64, "channels of the encoder", alias="model.backbone.out_channels")
    encoder_layers: Layers = option(
        2, "convolutions of the encoder: two of them stride down to the grid", alias="model.backbone.num_layers"
    )
    attention_hidden: Count = option(
        32, "hidden channels of the attention head", alias=dotted("model.attention.hidden_dim")
    )
    attention_layers: Layers = option(
        1, "hidden layers of the attention head", alias=dotted("model.attention.num_layers")
    )
    router_mode: Literal["learnable_threshold", "sigmoid_gate", "gumbel", "top_fraction"] = option(
        "learnable_threshold",
        "how scores become routes: against a learned threshold (straight-through), against a fixed one with soft "
        "weights, by Gumbel noise in training, or the best fraction of every image",
        alias=dotted("model.router.mode"),
    )
    threshold_init: Annotated[float, Gt(0.0), Lt(1.0)] = option(
        0.5, "threshold at first; it stays between 0 and 1", alias=dotted("model.router.threshold_init")
    )
    temperature: Positive = option(
        1.0, "of the sigmoid whose slope routes are learned by", alias=dotted("model.router.temperature")
    )
    temperature_final: Positive | None = option(
        None, "temperature at the end of training; null keeps it", alias=dotted("model.router.temperature_final")
    )
    fraction: Share = option(
        0.25,
        "cells that top_fraction gives to the big MLP; for variants without a budget_target, theirs",
        alias=dotted("model.router.fraction"),
    )
    big_hidden_dim: Count = option(512, "hidden width of the big MLP", alias=dotted("model.mlp_big.hidden_dim"))
    big_layers: Layers = option(3, "hidden layers of the big MLP", alias=dotted("model.mlp_big.num_layers"))
    small_hidden_dim: Count = option(64, "hidden width of the small MLP", alias=dotted("model.mlp_small.hidden_dim"))
    small_layers: Layers = option(1, "hidden layers of the small MLP", alias=dotted("model.mlp_small.num_layers"))
    embed_dim: Count = option(128, "width of what both MLPs give", alias=dotted("model.mlp_big.output_dim"))
    big_input: Literal["crop", "both"] = option(
        "crop", "what the big MLP sees of a cell: the image there, or the encoder's features as well"
    )
    small_input: Literal["features", "crop"] = option(
        "features", "what the small MLP sees of a cell: the encoder's features, or the image there"
    )
    crop_context: Annotated[int, Ge(0), Le(1024)] = option(0, "pixels of margin round the cell in its crop")
    aggregator: str = option(
        "concat",
        "how cells become one vector: concat, mean, weighted_mean, attention_pool or a registered one",
        alias=dotted("model.aggregator.type"),
    )
    aggregator_dim: Count = option(
        256, "width of what the aggregator gives", alias=dotted("model.aggregator.output_dim")
    )
    head_hidden_dim: Count = option(128, "hidden width of the task head", alias=dotted("model.head.hidden_dim"))
    dropout: Annotated[float, Ge(0.0), Lt(1.0)] = option(
        0.1, "dropout before the classifier", alias=("drop_rate", *dotted("model.head.dropout"))
    )
    budget_target: Share | None = option(
        0.25,
        "share of cells for the big MLP that the budget loss asks for; null makes that loss a price per FLOP",
        null=True,
    )
    budget_weight: Annotated[float, Ge(0.0), Le(1000.0)] = option(10.0, "weight of the budget loss; 0 leaves it out")
    budget_scope: Literal["batch", "sample"] = option(
        "batch", "what has to meet the target: the mean over the batch, or every image"
    )
    budget_anneal: Share = option(
        0.0, "share of the training over which the target comes down from 1, or the price up from 0"
    )
    compute: Literal["attention", "full", "cheap", "none", "random", "center"] = option(
        "attention",
        "who decides: the attention; or a control: the big MLP everywhere, the small one everywhere, both everywhere "
        "ungated, random cells, the cells nearest to the centre",
    )
    dense: bool = option(False, "the dense twin: one MLP for all cells, as wide as the FLOPs of the target ratio allow")
    mean: PerChannel | None = option(None, "mean of the images' channels, of values from 0 to 1; null means 0.5")
    std: PerChannel | None = option(None, "standard deviation of the images' channels; null means 0.5")

    def __post_init__(self) -> None:
        for axis, side, cells in zip(("height", "width"), self.sides, self.grid, strict=True):
            if side % cells:
                fits = [str(n) for n in range(1, side + 1) if side % n == 0]
                raise ConfigError(
                    f"patch_grid_size={self.patch_grid_size} is not allowed: its cells must divide the image's {axis} "
                    f"(img_size={self.img_size}). Allowed: {', '.join(fits)}."
                )
        if self.aggregator not in aggregators:
            hint = did_you_mean(self.aggregator, aggregators)
            raise ConfigError(f"aggregator={self.aggregator!r} is not registered.{hint} Allowed: {_known()}.")
        if self.dense and self.compute != "attention":
            raise ConfigError(
                f"dense=True with compute={self.compute!r} is not allowed: the dense twin is that of 'attention'."
            )
        self.check_std()

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the cells."""
        grid = self.patch_grid_size
        return (grid, grid) if isinstance(grid, int) else grid

    @property
    def num_cells(self) -> int:
        """N."""
        return self.grid[0] * self.grid[1]

    @property
    def cell(self) -> tuple[int, int]:
        """(height, width) of a cell in pixels."""
        return self.sides[0] // self.grid[0], self.sides[1] // self.grid[1]

    @property
    def crop_dim(self) -> int:
        """Numbers in the crop of a cell: the document's ``patch_input_dim``."""
        height, width = (side + 2 * self.crop_context for side in self.cell)
        return self.in_channels * height * width

    @property
    def ratio(self) -> float:
        """Share of the cells that is meant to meet the big MLP."""
        if self.router_mode == "top_fraction" or self.budget_target is None:
            return self.fraction
        return self.budget_target


def _known() -> str:
    return ", ".join(aggregators)
