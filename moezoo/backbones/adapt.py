"""Trained weights for other classes, channels and another image size than those they were trained with.

A donor holds the trained weights in the shape they were stored in. It is changed by its backbone's own methods until
it has the shape of the model asked for, and hands everything over.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.live import live_options
from moezoo.errors import WeightsMismatch

FIELDS = ("num_classes", "in_chans", "img_size")
"""The fields of a configuration in which a donor may differ from the model."""


def adapt(donor: nn.Module, model: nn.Module) -> list[str]:
    """Give ``model`` the weights of ``donor``, a model that differs in :data:`FIELDS` at most.

    A classifier for another number of classes stays the model's own. Channels are summed to one, or repeated and
    scaled, as timm does; positions and window tables are interpolated.

    Args:
        donor: Holds the trained weights; is used up.
        model: Takes them all, or none if they cannot be adapted.

    Returns:
        What was adapted, in words; empty when nothing had to be.

    Raises:
        WeightsMismatch: The backbone cannot be adapted; the field is named.
    """
    old, new = _options(donor), _options(model)
    changed = [field for field in FIELDS if old[field] != new[field]]
    fresh = head_keys(model) if "num_classes" in changed and new["num_classes"] else frozenset()
    if "num_classes" in changed:
        _method(donor, "reset_classifier", "num_classes", new)(new["num_classes"])
    if "in_chans" in changed:
        for name in _input_convs(donor, new):
            conv: Any = donor.get_submodule(name)
            conv.weight = nn.Parameter(adapt_channels(conv.weight.detach(), old["in_chans"], new["in_chans"]))
    if "img_size" in changed:
        _resize(donor, model, tuple(new["img_size"]))
    own = model.state_dict()
    state = {**donor.state_dict(), **{key: own[key] for key in fresh}}
    fits = {key for key in own if key in state and own[key].shape == state[key].shape}
    if wrong := [key for key in {**own, **state} if key not in fits]:
        raise _impossible(_blame(wrong[0], donor, changed), new, f"{wrong[0]} would not fit")
    model.load_state_dict(state)
    new_head = {"num_classes": " (a new head)"} if fresh else {}
    return [f"{field} {old[field]} to {new[field]}{new_head.get(field, '')}" for field in changed]


def adapt_channels(weight: Tensor, old: int, new: int) -> Tensor:
    """An input convolution's (O, I, H, W) weight for ``new`` channels instead of ``old``, by timm's rule.

    To one channel the old ones are summed, otherwise they are repeated and scaled by ``old / new``, so that an image
    with its content in every channel gives what it gave. I is a multiple of ``old`` where a stem first moves space
    into channels.
    """
    grouped = weight.unflatten(1, (-1, old))  # (O, I / old, old, H, W)
    if new == 1:
        grouped = grouped.sum(2, keepdim=True)
    else:
        grouped = grouped.repeat(1, 1, -(-new // old), 1, 1)[:, :, :new] * (old / new)
    return grouped.flatten(1, 2)


def _options(model: nn.Module) -> dict[str, Any]:
    """The :data:`FIELDS` as the model has them, those included that the configuration left to the backbone."""
    live, size = live_options(model), model.pretrained_cfg["input_size"]  # type: ignore[index]
    return {
        "num_classes": live["num_classes"],
        "in_chans": size[0],
        "img_size": tuple(live["img_size"] or size[1:]),
    }


def head_keys(model: Any) -> frozenset[str]:
    """The state-dict names of the classifier."""
    heads = model.get_classifier()
    return keys_of(
        model, [m for m in (heads if isinstance(heads, (tuple, list)) else [heads]) if isinstance(m, nn.Module)]
    )


def keys_of(model: nn.Module, modules: Iterable[nn.Module]) -> frozenset[str]:
    """The state-dict names of the tensors that ``modules`` hold, whatever the model calls them."""
    owned = {id(tensor) for m in modules for tensor in m.state_dict(keep_vars=True).values()}
    return frozenset(key for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in owned)


def _first_convs(donor: Any) -> tuple[str, ...]:
    """The layers that timm says read the image."""
    names = donor.pretrained_cfg.get("first_conv") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _input_convs(donor: nn.Module, new: dict[str, Any]) -> tuple[str, ...]:
    names, modules = _first_convs(donor), dict(donor.named_modules())
    for name in names:
        if not isinstance(modules.get(name), nn.Conv2d):
            raise _impossible("in_chans", new, f"{name} is no convolution of this {type(donor).__name__}")
    if not names:
        raise _impossible("in_chans", new, f"timm names no input convolution of {type(donor).__name__}")
    return names


@torch.no_grad()
def _resize(donor: nn.Module, model: nn.Module, size: tuple[int, ...]) -> None:
    """Interpolate what depends on the image size; a convolutional network has nothing that does."""
    resize: Any = getattr(donor, "set_input_size", None)
    if resize is None:
        return
    if "window_size" not in inspect.signature(resize).parameters:
        resize(img_size=size)
        return
    # These scale their windows with the image, but a model built for an image size keeps the windows it is built with.
    modules: dict[str, Any] = dict(model.named_modules())
    for name, module in donor.named_modules():
        if hasattr(module, "set_window_size"):
            module.set_window_size(modules[name].window_size)


def _method(donor: nn.Module, name: str, field: str, new: dict[str, Any]) -> Any:
    if not hasattr(donor, name):
        raise _impossible(field, new, f"{type(donor).__name__} has no {name}")
    return getattr(donor, name)


def _blame(key: str, donor: nn.Module, changed: list[str]) -> str:
    """The field that stands behind a weight that does not fit."""
    if "in_chans" in changed and key.removesuffix(".weight") in _first_convs(donor):
        return "in_chans"
    return next(field for field in ("img_size", "num_classes", "in_chans") if field in changed)


def _impossible(field: str, new: dict[str, Any], why: str) -> WeightsMismatch:
    return WeightsMismatch(
        f"{field}={new[field]!r} is not possible with these weights: {why}. Leave {field} out to load them as they are."
    )
