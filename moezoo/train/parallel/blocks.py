"""The parts of a model whose parameters are gathered together: its repeated blocks."""

from __future__ import annotations

from collections import Counter

from torch import nn

from moezoo.moe import MoELayer


def find_blocks(model: nn.Module) -> list[nn.Module]:
    """What stands two times or more in a container, inner ones before outer ones.

    Such as a ViT's blocks, a Swin's blocks and its stages. Not looked into are MoE layers, which are parts of a block,
    nor do single layers count.
    """
    found: list[nn.Module] = []
    _collect(model, found)
    return list(dict.fromkeys(found))


def _collect(module: nn.Module, found: list[nn.Module]) -> None:
    if isinstance(module, MoELayer):
        return
    parts = list(module.children())
    alike = Counter(type(part) for part in parts)
    for part in parts:
        _collect(part, found)
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and alike[type(part)] > 1 and _is_block(part):
            found.append(part)


def _is_block(module: nn.Module) -> bool:
    composed = next(module.children(), None) is not None
    container = isinstance(module, (nn.ModuleList, nn.ModuleDict))  # is never called, so it cannot gather
    return composed and not container and any(p.dim() for p in module.parameters())
