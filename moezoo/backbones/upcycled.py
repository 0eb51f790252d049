"""An MoE layer in the place of the MLP it was made from."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.backbones.in_place import InPlaceOfMLP
from moezoo.backbones.mlps import DenseMLP
from moezoo.backbones.recycled import recycled
from moezoo.backbones.site import Site
from moezoo.moe.layer import MoELayer
from moezoo.moe.recycling import Activity
from moezoo.moe.upcycling import DenseWeights, ExpertInit, spread


class UpcycledMLP(InPlaceOfMLP):
    """An MoE layer in the place of the MLP it was made from.

    Args:
        moe: The layer; its experts' weights are set by :meth:`load_dense`.
        dense, site, before: As of :class:`InPlaceOfMLP`.
        init: How experts are made from dense weights, here and when a dense checkpoint is loaded.
    """

    child = "moe"
    moe: MoELayer
    activity: Activity | None = None
    """What the MLP's hidden units did on some images, while the experts are first made from it."""

    def __init__(
        self, moe: MoELayer, dense: DenseMLP, init: ExpertInit, site: Site | None, before: nn.Module | None = None
    ):
        super().__init__(moe, dense, site, before)
        self.init = init

    def token_geometry(self, shape: tuple[int, ...]) -> tuple[tuple[int, int] | None, int]:
        """Grid and prefix tokens of an input of ``shape``."""
        if len(shape) == 4:
            return ((shape[2], shape[3]) if self.dense.channels_first else (shape[1], shape[2])), 0
        grid = self.site.grid_of(shape) if self.site is not None else None
        return (grid, self.site.prefix_tokens) if self.site is not None and grid is not None else (None, 0)

    def made_from(self, weights: DenseWeights) -> dict[str, Tensor] | None:
        if self.init.method == "recycle":
            return recycled(weights, self.moe.experts, self.init, self.activity)
        # Where some parts of a partition were removed or merged, the rest are no partition.
        parts = self.moe.num_experts if self.init.method == "partition" else 1
        if self.moe.experts.hidden_dim * parts != self.dense.hidden_dim:
            return None
        return {f"experts.{name}": t for name, t in spread(weights, self.moe.num_experts, self.init).items()}

    def extra_repr(self) -> str:
        return f"init={self.init.method!r}, channels_first={self.dense.channels_first}"
