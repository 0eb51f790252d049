"""``moezoo.create_model`` in the words of timm's ``create_model``, with attached auxiliary losses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.models import PretrainedCfg
from torch import nn

from moezoo.backbones.answers import answer_plainly
from moezoo.config import field_names
from moezoo.errors import ConfigError
from moezoo.factory import create_model, get_pretrained_cfg
from moezoo.hub.fetch import fetch_file
from moezoo.hub.schema import WEIGHTS_NAME
from moezoo.moe.aux_mode import set_aux_mode
from moezoo.moe.checks import check_positive
from moezoo.names import did_you_mean
from moezoo.registry import model_config
from moezoo.timm.scaler import follow_scaler

DESCRIPTION = (
    *("input_size", "test_input_size", "min_input_size", "fixed_input_size", "interpolation", "mean", "std"),
    *("crop_pct", "test_crop_pct", "crop_mode", "label_names", "label_descriptions", "license", "description"),
)
"""What a given configuration may say about images and labels; where the weights are is another matter."""


def create(
    base: str,
    pretrained: bool | str = False,
    *,
    pretrained_cfg: str | Mapping[str, Any] | PretrainedCfg | None = None,
    pretrained_cfg_overlay: Mapping[str, Any] | None = None,
    cache_dir: Any = None,
    features_only: bool = False,
    out_indices: Any = None,
    aux_scale: float = 1.0,
    device: Any = None,
    dtype: Any = None,
    pretrained_model_args: Any = None,
    **kwargs: Any,
) -> nn.Module:
    """A model of moezoo, its auxiliary losses attached to its layers' outputs; it answers with a tensor.

    Args:
        pretrained: As of :func:`moezoo.create_model`.
        pretrained_cfg: A variant's name, or a configuration: its data fields go to ``model.pretrained_cfg``, and a
            ``file`` or ``hf_hub_id`` other than the backbone's is where ``pretrained`` weights come from.
        pretrained_cfg_overlay: Fields to replace in it.
        aux_scale: Factor of the attached gradients: ``1 / n`` where the loss is divided by n accumulation steps. That
            of timm's ``NativeScaler`` is found by itself.
        pretrained_model_args: What timm read in a stored configuration; ``kwargs`` hold them already.
        **kwargs: Fields of the family's configuration; others go to the backbone.

    Raises:
        ConfigError: A field is not allowed.
        WeightsError: The weights cannot be had, are damaged, or do not fit.
    """
    scale = check_positive("aux_scale", aux_scale, zero=True)
    stated, variant = _stated(pretrained_cfg, pretrained_cfg_overlay)
    name = f"{base}.{variant}" if variant else base
    known = field_names(type(model_config(name)))
    fields = {key: value for key, value in kwargs.items() if key in known}
    backbone = {key: value for key, value in kwargs.items() if key not in known and value is not None}
    if backbone:
        fields["backbone_args"] = {**(fields.get("backbone_args") or {}), **backbone}
    file = _file(name, stated, cache_dir) if pretrained else None
    try:
        model = create_model(
            name,
            False if file else pretrained,
            features_only=features_only,
            out_indices=out_indices,
            checkpoint_path=file,
            cache_dir=cache_dir,
            **fields,
        )
    except ConfigError as error:
        # What is not a field of ours went to the backbone; it may be a misspelt one.
        hints = [did_you_mean(key, known) for key in backbone if f"unknown argument {key!r}" in str(error)]
        raise ConfigError(f"{error}{''.join(hints)}") from error
    _describe(model, base, variant, stated)
    answer_plainly(model)
    set_aux_mode(model, "attached")
    follow_scaler(model, scale)
    return model if device is None and dtype is None else model.to(device=device, dtype=dtype)


def _stated(given: Any, overlay: Mapping[str, Any] | None) -> tuple[dict[str, Any], str]:
    """What a caller's configuration says, and the variant it names."""
    if isinstance(given, str):
        return dict(overlay or {}), given
    if isinstance(given, PretrainedCfg):
        given = dataclasses.asdict(given)
    if given is not None and not isinstance(given, Mapping):
        raise ConfigError(f"pretrained_cfg={given!r:.80} must be a variant's name, a mapping or a PretrainedCfg.")
    stated = {**(given or {}), **(overlay or {})}
    return {key: value for key, value in stated.items() if value is not None}, stated.get("tag") or ""


def _file(name: str, stated: Mapping[str, Any], cache_dir: Any) -> str | None:
    """The file of the model's weights, where the configuration names another source than the backbone's."""
    own = get_pretrained_cfg(name)
    if stated.get("file"):
        path = Path(stated["file"])
        return str(path / WEIGHTS_NAME if path.is_dir() else path)
    for key in ("state_dict", "url"):
        if stated.get(key) and stated[key] != getattr(own, key):
            raise ConfigError(f"pretrained_cfg: {key} is not allowed; give file= or hf_hub_id= of safetensors.")
    repo = stated.get("hf_hub_id")
    if repo is None or repo == own.hf_hub_id:
        return None
    repo, _, revision = str(repo).partition("@")
    filename = stated.get("hf_hub_filename") or WEIGHTS_NAME
    return str(fetch_file(repo, filename, revision=revision or None, cache_dir=cache_dir))


def _describe(model: nn.Module, base: str, variant: str, stated: Mapping[str, Any]) -> None:
    """Let ``model.pretrained_cfg`` name the model, so that timm can rebuild it from its own ``config.json``."""
    cfg = dict(getattr(model, "pretrained_cfg", None) or {})
    cfg.update({key: stated[key] for key in DESCRIPTION if key in stated}, architecture=base.replace("/", "_", 1))
    cfg.pop("tag", None)
    if variant:
        cfg["tag"] = variant
    model.pretrained_cfg = model.default_cfg = cfg  # type: ignore[assignment]
