"""What was changed after a model was built: classes, image size, pooling, numbers of experts."""

from __future__ import annotations

import contextlib
from typing import Any, TypeVar

from torch import nn

from moezoo.backbones.features import FeatureModel
from moezoo.backbones.live_experts import changed_experts, live_experts
from moezoo.backbones.tokens.route import current_routing
from moezoo.config import field_names, override
from moezoo.errors import ConfigError, InputError

T = TypeVar("T")
_BUILT = "moezoo_as_built"
_EXPERTS = "moezoo_experts_as_built"


def note_as_built(model: nn.Module) -> nn.Module:
    """Remember the options of a model just built, for :func:`current_config`; returns it."""
    setattr(model, _BUILT, live_options(model))
    setattr(model, _EXPERTS, live_experts(model))
    return model


def current_config(model: nn.Module, config: T) -> T:
    """``config`` with what ``reset_classifier``, ``set_input_size``, surgery on experts and the dials of token routing
    changed since then.

    Raises:
        ConfigError: The pooling was changed, which moves layers that the configuration alone would build elsewhere, or
            the numbers of experts were changed to what it cannot say.
        InputError: ``model`` is a ``features_only`` model, which lacks what the configuration builds.
    """
    if isinstance(model, FeatureModel):
        raise InputError("a features_only model has lost its head; save the model it was made from.")
    built, live = getattr(model, _BUILT, None), live_options(model)
    if built is None:
        return config
    if built["global_pool"] != live["global_pool"]:
        raise ConfigError(
            f"global_pool was changed from {built['global_pool']!r} to {live['global_pool']!r} after the model was "
            f"built, which its configuration cannot say; build it with global_pool={live['global_pool']!r}."
        )
    changed = {key: value for key, value in live.items() if value != built[key]}
    experts = changed_experts(model, getattr(model, _EXPERTS))
    if "top_k" not in field_names(type(config)):
        experts.pop("top_k", None)  # of soft slots every token has all experts, however many there are
    config = override(config, {**changed, **experts})
    return current_routing(model, config)


def live_options(model: nn.Module) -> dict[str, Any]:
    """``num_classes``, ``img_size`` and ``global_pool`` as the timm model has them now; ``None`` where it has none."""
    size = getattr(getattr(model, "patch_embed", None), "img_size", None)
    return {
        "num_classes": _classes(model),
        "img_size": None if size is None else [int(side) for side in size],
        "global_pool": _pooling(model),
    }


def _classes(model: Any) -> int | None:
    """The classifier's outputs, also after somebody put another layer in its place."""
    head = None
    with contextlib.suppress(AttributeError):  # some models fail to answer once they have no classifier
        head = model.get_classifier()
    width = getattr(head, "out_features", None)
    return int(width) if isinstance(width, int) else getattr(model, "num_classes", None)


def _pooling(model: Any) -> str | None:
    pool = getattr(model, "global_pool", None) or getattr(getattr(model, "head", None), "global_pool", None)
    return pool if isinstance(pool, str) else getattr(pool, "pool_type", None)
