"""``from_jax`` and ``to_jax``: a model from the reference's arrays, and the arrays of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moezoo.backbones.live import current_config
from moezoo.config import decode, override, to_dict
from moezoo.errors import ConfigError, InputError, WeightsMismatch
from moezoo.models.moe_vit.config import MoEViTConfig
from moezoo.models.moe_vit.jax.arrays import check, to_arrays, to_tensor
from moezoo.models.moe_vit.jax.from_config import own_fields
from moezoo.models.moe_vit.jax.image import native_size, table_rows
from moezoo.models.moe_vit.jax.names import entries
from moezoo.models.moe_vit.jax.to_config import reference_config
from moezoo.models.moe_vit.positions import resize_positions
from moezoo.registry import list_models, model_config

TABLE = "Encoder/posembed_input/pos_embedding"
KERNEL = "embedding/kernel"
ORIGIN = "jax"
"""``weights_origin`` of a converted model."""


def from_jax(
    params: Mapping[str, Any],
    config: Mapping[str, Any] | MoEViTConfig,
    *,
    family: str,
    cls: type[MoEViTConfig],
    build: Callable[[Any], nn.Module],
    img_size: int | tuple[int, int] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A model with the reference's weights; see ``from_jax`` of the families, which give what is below.

    Args:
        family: ``vmoe`` or ``soft_moe``.
        cls: Its configuration.
        build: Its builder.
        overrides: Fields of its configuration.
    """
    arrays = dict(_flat(params))
    if arrays and all(name.startswith("params/") for name in arrays):
        arrays = {name.removeprefix("params/"): array for name, array in arrays.items()}
    own = _own_config(config, family, cls, arrays, dict(overrides or {}))
    own, native = _sized(own, arrays, img_size)
    if "group_size" not in (overrides or {}):
        own = _regrouped(own, native)
    wanted = entries(native)
    check(arrays, wanted)
    state = {entry.key: to_tensor(entry, arrays) for entry in wanted}
    if native.num_tokens != own.num_tokens and "pos_embed" in state:
        grids = [tuple(side // patch for side, patch in zip(c.sides, c.patch, strict=True)) for c in (native, own)]
        state["pos_embed"] = resize_positions(state["pos_embed"], *grids, prefix=int(own.classifier == "token"))  # type: ignore[arg-type, misc]
    with torch.device("meta"):  # fresh weights would only cost time and memory
        model = build(own)
    model.load_state_dict(state, strict=True, assign=True)
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    for key, value in {
        "moezoo_name": _preset(family, own),
        "moezoo_config": own,
        "weights_origin": ORIGIN,
        "label_names": None,
    }.items():
        setattr(model, key, value)
    return model.eval()


def to_jax(model: nn.Module) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The reference's arrays by ``/``-joined names, and its configuration, of a model of ``vmoe`` or ``soft_moe``.

    ``from_jax(*to_jax(model))`` has the same weights, bit by bit. What the reference's configuration cannot say is
    logged: stochastic depth, and another ``eval_capacity_factor``, which is to be given to ``from_jax`` again.

    Raises:
        InputError: The model is not of these families, or not in float32.
        ConfigError: Its configuration says what the reference cannot.
        WeightsMismatch: It was changed since it was built: experts were removed, say.
    """
    config = getattr(model, "moezoo_config", None)
    if not isinstance(config, MoEViTConfig):
        raise InputError(
            f"to_jax takes a model of vmoe or soft_moe, not a {type(model).__name__}; and none made from timm's ViT"
        )
    config = current_config(model, config)
    assert isinstance(config, MoEViTConfig)
    theirs, wanted = reference_config(config), entries(config)
    state = model.state_dict()
    shapes = {entry.key: entry.shape for entry in wanted}
    if wrong := sorted(shapes.keys() ^ state.keys()) or [k for k, shape in shapes.items() if state[k].shape != shape]:
        raise WeightsMismatch(f"to_jax: the model is not the one of its configuration: {', '.join(wrong)}")
    if other := [key for key, tensor in state.items() if tensor.dtype != torch.float32]:
        raise InputError(f"to_jax takes float32, and {other[0]} is {state[other[0]].dtype}: model.float() makes it so")
    return {name: array for entry in wanted for name, array in to_arrays(entry, state[entry.key]).items()}, theirs


def _flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    if not isinstance(params, Mapping):
        raise InputError(f"params must be a mapping of names to arrays, got a {type(params).__name__}")
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}", np.asarray(value)


def _own_config(
    config: Mapping[str, Any] | MoEViTConfig,
    family: str,
    cls: type[MoEViTConfig],
    arrays: Mapping[str, NDArray[Any]],
    overrides: dict[str, Any],
) -> MoEViTConfig:
    if isinstance(config, MoEViTConfig):
        if not isinstance(config, cls):
            raise ConfigError(f"config is a {type(config).__name__}, and a {cls.__name__} is needed")
        return override(config, overrides)
    found, fields = own_fields(config)
    if fields["moe_layers"] and found != family:
        raise ConfigError(f"config is one of {found}: moezoo.models.{found}.from_jax converts it")
    patch = fields["patch_size"]
    down, right = (patch, patch) if isinstance(patch, int) else patch
    fields["img_size"] = native_size(None, (down, right))
    # However its axes are turned: what is wrong with it is reported later.
    channel = down * right * fields["hidden_size"]
    size = arrays[KERNEL].size if KERNEL in arrays else 0
    fields["in_channels"] = size // channel if size and channel > 0 and size % channel == 0 else 3
    return override(decode(cls, fields, where="config"), overrides)


def _sized(
    own: MoEViTConfig, arrays: Mapping[str, NDArray[Any]], img_size: int | tuple[int, int] | None
) -> tuple[MoEViTConfig, MoEViTConfig]:
    """The configuration at the image's size, and at the size that the table of positions is of."""
    given = own if img_size is None else override(own, {"img_size": img_size})
    rows = table_rows(arrays.get(TABLE), own.hidden_size) if own.position == "learned" else None
    if rows is None or rows == given.num_tokens:
        return given, given
    at_native = override(own, {"img_size": native_size(rows - (own.classifier == "token"), own.patch)})
    return (at_native if img_size is None else given), at_native


def _regrouped(own: MoEViTConfig, native: MoEViTConfig) -> MoEViTConfig:
    """Groups of whole images go on being that where images are of another size."""
    images, rest = divmod(native.group_size or 0, native.num_tokens)
    return own if rest else override(own, {"group_size": images * own.num_tokens or None})


def _preset(family: str, config: MoEViTConfig) -> str:
    """The registered model that this one is most like: what is stored of a model begins with the name of one."""
    mine = to_dict(config)

    def alike(name: str) -> int:
        other = model_config(name)
        return -1 if type(other) is not type(config) else sum(mine[k] == v for k, v in to_dict(other).items())

    return max(list_models(family=family), key=alike)
