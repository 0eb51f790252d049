"""A part of the backbone by its own formula, as an expert."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

CHILD = "token_routing"
"""The child of a module that routes its tokens."""


class OwnModule(nn.Module):
    """A module that is referred to, not held: its weights stay the backbone's, under their names.

    Args:
        module: One whose ``forward`` was, or will be, replaced by what routes its tokens here.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self.__dict__["own"] = module  # past nn.Module, which would make it a child, and its parent its own descendant

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self.__dict__["own"]
        if not isinstance(own, nn.Sequential):
            return type(own).forward(own, x)
        for name, layer in own.named_children():  # which would run the child that routes, too
            x = x if name == CHILD else layer(x)
        return x

    def named_parameters(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own, without those of the child that routes."""
        named = self.__dict__["own"].named_parameters(*args, **kwargs)
        return ((name, p) for name, p in named if not name.startswith(f"{CHILD}."))


def drop_routing(model: nn.Module) -> None:
    """Let every module be what it was before its tokens were routed; the children that routed stay, and do nothing."""
    for module in model.modules():
        if isinstance(getattr(module, CHILD, None), nn.Module):
            module.__dict__.pop("forward", None)
