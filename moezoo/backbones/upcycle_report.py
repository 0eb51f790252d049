"""Whether an upcycled model computes what it did before: in theory, and measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class UpcycledSite:
    """One MLP that became a mixture of experts."""

    name: str
    """Path of the module that took its place."""
    init: str
    preserved: bool
    """Whether, in theory, it computes in evaluation mode what the MLP did."""
    why: str
    """Why it does not; empty if it does."""


@dataclass(frozen=True)
class UpcycleReport:
    """What :func:`upcycle` did, kept as ``model.upcycle_report``."""

    sites: tuple[UpcycledSite, ...]

    @property
    def preserved(self) -> bool:
        """Whether the whole model computes what it did before."""
        return all(site.preserved for site in self.sites)


@torch.no_grad()
def measure_gap(model: nn.Module, dense: nn.Module, images: Tensor) -> float:
    """Largest difference between the outputs of two models in evaluation mode, relative to the second's largest value.

    Args:
        model: An upcycled model.
        dense: The model it was made from, for example a deep copy made before.
        images: (B, C, H, W).
    """
    pairs = zip(_outputs(model, images), _outputs(dense, images), strict=True)
    differences = [(float((a - b).abs().max()), float(b.abs().max())) for a, b in pairs]
    return max(difference / (size or 1.0) for difference, size in differences)


def _outputs(model: nn.Module, images: Tensor) -> list[Tensor]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        keyword = getattr(model, "main_input_name", None)
        output = model(**{keyword: images}) if keyword else model(images)
    finally:
        for module, training in modes.items():
            module.training = training
    leaves = tree_leaves(dict(output) if isinstance(output, Mapping) else output)
    return [t for t in leaves if isinstance(t, Tensor) and t.is_floating_point()]
