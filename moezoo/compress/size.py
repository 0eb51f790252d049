"""How large a model is, as it is stored."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from moezoo.altered.weights import int8_numbers


@dataclass(frozen=True)
class Size:
    """Of everything that is stored; a tensor that two modules share counts once."""

    bytes: int
    weights: int
    """Numbers that were learnt, whatever type they have; scales and running statistics are none."""
    int8: int
    """Those of ``weights`` that are int8."""


def size_of(model: nn.Module) -> Size:
    """Parameters and stored buffers. Works on the meta device too."""
    state = {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
    int8 = int8_numbers(model)
    return Size(
        bytes=sum(tensor.nbytes for tensor in state.values()),
        weights=sum(parameter.numel() for parameter in model.parameters()) + int8,
        int8=int8,
    )
