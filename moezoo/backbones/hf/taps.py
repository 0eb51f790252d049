"""Intermediate maps of any model whose blocks can be found: what the last block of each stage returns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.backbones.blocks import find_blocks
from moezoo.backbones.layout import candidate_sites
from moezoo.backbones.site import Site
from moezoo.backbones.trace import trace


def feature_sites(model: nn.Module, input_size: tuple[int, int, int]) -> list[Site]:
    """Where features are taken: behind each stage, or behind each block of a model that has no stages."""
    traced = trace(model, input_size)
    blocks = find_blocks(traced)
    ends = {block.stage: i for i, block in enumerate(blocks)}
    chosen = list(ends.values()) if len(ends) > 1 else range(len(blocks))
    sites = [candidate_sites(traced, blocks[i], i)[0] for i in chosen]
    return [site for site in sites if site.grid is not None]


def feature_info(sites: Sequence[Site], height: int) -> list[dict[str, Any]]:
    """The sites in the words of timm's ``feature_info``."""
    return [
        {"num_chs": site.dim, "reduction": height / site.grid[0], "module": site.module} for site in sites if site.grid
    ]


def run_with_taps(model: nn.Module, images: Tensor, sites: Sequence[Site]) -> list[Tensor]:
    """One forward of ``model``; the (B, C, H, W) maps at ``sites``, adapters included."""
    kept: list[Any] = [None] * len(sites)

    def keep(i: int):
        return lambda module, args, output: kept.__setitem__(i, output)

    handles = [model.get_submodule(s.module).register_forward_hook(keep(i)) for i, s in enumerate(sites)]
    try:
        model(pixel_values=images)
    finally:
        for handle in handles:
            handle.remove()
    return [_as_map(site, output) for site, output in zip(sites, kept, strict=True)]


def _as_map(site: Site, output: Any) -> Tensor:
    feature = output if site.output_index is None else output[site.output_index]
    if site.layout == "NCHW":
        return feature
    rows, columns = site.grid_of(feature.shape) or (1, feature.shape[1] - site.prefix_tokens)
    body = site.tokens(feature)[:, site.prefix_tokens :]
    return body.transpose(1, 2).reshape(feature.shape[0], site.dim, rows, columns)
