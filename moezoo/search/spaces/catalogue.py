"""The spaces there are, by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

from moezoo.errors import ConfigError
from moezoo.names import did_you_mean, natural_key
from moezoo.registry import is_model
from moezoo.search.spaces.base import Space
from moezoo.search.spaces.models import ModelSpace, parse_options
from moezoo.search.spaces.regnets import stage_spaces
from moezoo.search.spaces.upcycled import UpcycledVit

_added: dict[str, Callable[[], Space]] = {}


def entity_digits() -> ModelSpace:
    """EntityMoE on the digits as they are, 8 x 8 pixels."""
    options = {
        "backbone_args.embed_dim": (16, 32, 48, 64),
        "backbone_args.depth": (1, 2, 3, 4),
        "num_experts": (2, 4, 8),
        "num_experts_shared": (0, 1, 2),
        "expert_k": (1, 2, 4),
        "mlp_ratio": (0.5, 1.0, 2.0, 4.0),
        "expert": ("mlp", "glu"),
        "activation": ("gelu", "relu", "silu"),
        "inject_layers": ("last", "last_half", "all"),
    }
    fixed = ("img_size=8", "training.batch_size=64", "training.lr=3e-3")
    help = "width, depth, experts, k, placement, and the experts' kind and width, of 8 x 8 digits"
    return ModelSpace("entity_moe/digits", options, fixed=fixed, help=help)


def diff_digits() -> ModelSpace:
    """Diff-MoE's image path on the digits as they are."""
    options = {
        "embed_dim": (16, 32, 48, 64),
        "img_encoder_layers": (1, 2, 3, 4),
        "num_general_experts": (2, 4, 8),
        "top_k": (1, 2, 4),
        "mlp_ratio": (0.5, 1.0, 2.0, 4.0),
        "activation": ("gelu", "relu", "silu"),
    }
    fixed = ("img_size=8", "patch_size=2", "training.batch_size=64", "training.lr=2e-3")
    help = "width, depth, experts, k, and the experts' width, of 8 x 8 digits"
    return ModelSpace("diff_moe/digits.image_only", options, name="diff_moe/digits", fixed=fixed, help=help)


def multiscale_synthetic() -> ModelSpace:
    """The fusion of scales and modalities on generated three-spectrum images."""
    options = {
        "scales": ((4, 16), (1, 4, 16), (1, 2, 4, 16), (1, 2, 4, 8, 16)),
        "hidden_dim": (64, 128, 256),
        "gate_layers": (1, 2, 3),
        "num_heads": (1, 2, 4),
        "temperature": (0.5, 1.0, 2.0),
        "top_k": (None, 1, 2),
        "window_op": ("pool", "depthwise"),
        "final_fusion": (True, False),
    }
    help = "scales, experts' width, the gate's depth, heads, temperature and k of the fusion"
    return ModelSpace("multiscale_moe/synthetic", options, epochs=4, help=help)


MODELS: dict[str, Callable[[], Space]] = {
    "entity_moe/digits": entity_digits,
    "diff_moe/digits": diff_digits,
    "multiscale_moe/synthetic": multiscale_synthetic,
    "vit_upcycle.small": lambda: UpcycledVit("vit_upcycle.small", (1, 8, 8), "digits", 6),
}


@cache
def _stages() -> dict[str, Space]:
    return {space.name: space for space in stage_spaces()}


def list_spaces() -> list[str]:
    """Names of the spaces, in natural order."""
    return sorted({*_stages(), *MODELS, *_added}, key=natural_key)


def register_space(name: str, make: Callable[[], Space]) -> None:
    """Let ``make`` be found as ``name``.

    Raises:
        ConfigError: The name is taken.
    """
    if name in list_spaces():
        raise ConfigError(f"there is a search space {name!r} already.")
    _added[name] = make


def find_space(name: str | Space, vary: Sequence[str] = ()) -> Space:
    """The space ``name``, or one of the registered model ``name`` in which what ``vary`` says differs.

    Args:
        name: A space's or, with ``vary``, a model's; a :class:`Space` is given back.
        vary: ``key=value,value`` for each key of the model's recipe that may differ.

    Raises:
        ConfigError: There is no such space, with the nearest spelling; or a value of ``vary`` makes no model.
        UnknownModelError: There is no such model.
    """
    if vary:
        if not isinstance(name, str):
            raise ConfigError(f"vary={list(vary)} makes a space of a model's name, and a space was given: {name.name}.")
        space = ModelSpace(name, parse_options(vary))
        space.check_options()
        return space
    if isinstance(name, Space):
        return name
    if name in _stages():
        return _stages()[name]
    make = {**MODELS, **_added}.get(name)
    if make is not None:
        return make()
    if isinstance(name, str) and is_model(name):
        hint = " It is a model: say what may differ by --vary key=value,value (vary=)."
    else:
        hint = did_you_mean(str(name), list_spaces())
    raise ConfigError(f"unknown search space {name!r}.{hint} Spaces: {', '.join(list_spaces())}.")
