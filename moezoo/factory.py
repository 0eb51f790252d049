"""``create_model``: name → config → builder → weights → features."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg
from torch import nn

from moezoo.backbones.create import has_backbone, load_backbone_weights, pretrained_cfg
from moezoo.backbones.features import FeatureModel
from moezoo.config import override, stated
from moezoo.errors import ConfigError, DataError, WeightsCorrupted, WeightsMismatch, WeightsUnavailable
from moezoo.hub.adapted import load_stored, unless_given
from moezoo.hub.backbone import published_weights
from moezoo.hub.load import load_checkpoint
from moezoo.hub.published import complete_config
from moezoo.hub.single_file import read_single_file
from moezoo.hub.stored import read_stored, unchanged
from moezoo.hub.stored_model import StoredModel
from moezoo.names import canonical_stored_name, is_stored_name, nearest
from moezoo.registry import build, model_config, model_weights, resolve

log = logging.getLogger(__name__)


def create_model(
    name: str,
    pretrained: bool | str = False,
    *,
    features_only: bool = False,
    out_indices: Any = None,
    checkpoint_path: str | Path | None = None,
    cache_dir: str | Path | None = None,
    token: str | bool | None = None,
    **overrides: Any,
) -> nn.Module:
    """Create a model by name.

    Args:
        name: ``family/arch[.variant]`` (or with ``_`` for ``/``), or a stored model: ``local-dir:path``,
            ``hf-hub:user/repo[@revision]``.
        pretrained: ``False`` for fresh weights. ``True`` for moezoo's own weights if there are some, else the
            backbone's pretrained weights under a fresh MoE that changes nothing at step 0. ``"full"`` forbids the
            second, ``"backbone"`` forces it. A stored name loads that. Pretrained weights are adapted to
            ``num_classes`` (by a new head), ``in_chans`` and ``img_size``, which stay a stored model's unless given.
        features_only: Return intermediate maps (B, C, H, W) instead of logits.
        out_indices: Which maps; see :class:`~moezoo.backbones.features.FeatureModel`.
        checkpoint_path: A ``.safetensors`` file to load at the end, strictly: of the whole model, or of its plain
            backbone, which leaves a fresh MoE the identity.
        cache_dir: Where downloads are kept; the Hub's cache by default.
        token: Hub token.
        **overrides: Fields of the family's configuration. As in timm, ``None`` means the default, but of the few
            for which it is a value of its own (``budget_target`` of attention routing).

    Returns:
        The model in training mode, with ``moezoo_name``, ``moezoo_config``, ``label_names`` and ``weights_origin`` set.

    Raises:
        UnknownModelError: No such model, with the three nearest names.
        ConfigError: An override is unknown, ill-typed or out of range.
        WeightsError: The weights cannot be had, are damaged, or do not fit.
    """
    if isinstance(name, str) and is_stored_name(name):
        model = _from_stored(canonical_stored_name(name), pretrained, cache_dir, token, overrides)
    else:
        model = _from_registry(name, pretrained, cache_dir, token, overrides)
    if checkpoint_path is not None:
        model.weights_origin = load_checkpoint(model, checkpoint_path)  # type: ignore[assignment]
        _take_company(model, checkpoint_path)
    if features_only:
        return _features(model, out_indices)
    if out_indices is not None:
        raise ConfigError(f"out_indices={out_indices!r} has no meaning without features_only=True.")
    return model


def get_pretrained_cfg(name: str) -> Any:
    """timm's ``PretrainedCfg`` of the model's backbone (size, mean, std, source of its weights), or of the model."""
    config = model_config(name)
    if has_backbone(config):
        return pretrained_cfg(config)
    with torch.device("meta"):
        return PretrainedCfg(**build(config).pretrained_cfg)


def _from_registry(
    name: str, pretrained: bool | str, cache_dir: Any, token: Any, overrides: dict[str, Any]
) -> nn.Module:
    parsed, entry = resolve(name)
    overrides = stated(type(model_config(name)), overrides)
    config = complete_config(model_config(name, **overrides), cache_dir=cache_dir, token=token)
    source = _weights_source(name, pretrained)
    canonical = str(parsed)
    if not parsed.variant and not overrides and entry is not None and entry.default_variant:
        canonical = f"{parsed.base}.{entry.default_variant}"
    if source is not None and source != "backbone":
        with unchanged(source):
            stored = read_stored(source, cache_dir=cache_dir, token=token)
            config = unless_given(config, stored.config, overrides)
            model = load_stored(stored, config, build)
            _give_tokenizer(model, config, stored.tokenizer_text(), f"{stored.source}: tokenizer.json")
        _sign(model, canonical, config, source, _labels(stored, config))
        _prepare_alike(model, config, stored)
        return model
    model = build(config)
    _sign(model, canonical, config, "fresh", None)
    if source == "backbone":
        _load_backbone(model, config, cache_dir, token)
    return model


def _weights_source(name: str, pretrained: bool | str) -> str | None:
    """``None``, ``"backbone"``, or the stored name to load."""
    if pretrained is False:
        return None
    if isinstance(pretrained, str) and is_stored_name(pretrained):
        return canonical_stored_name(pretrained)
    if pretrained not in (True, "full", "backbone"):
        allowed = ("full", "backbone", "hf-hub:", "local-dir:")
        hint = "".join(f" Did you mean {close!r}?" for close in nearest(str(pretrained), allowed, 1))
        raise ConfigError(
            f"pretrained={pretrained!r} is not allowed: it must be False, True, 'full', 'backbone', or a stored name "
            f"('hf-hub:…', 'local-dir:…').{hint}"
        )
    own = model_weights(name)
    own = None if own == "backbone" else own
    if own is None and not has_backbone(model_config(name)):
        raise WeightsUnavailable(f"{name!r} has no pretrained weights, and no backbone that could have some.")
    if pretrained == "full" and own is None:
        raise WeightsUnavailable(
            f"{name!r} has no moezoo weights yet. pretrained=True takes the backbone's, under a MoE that changes "
            "nothing at first."
        )
    return "backbone" if own is None or pretrained == "backbone" else own


def _load_backbone(model: nn.Module, config: Any, cache_dir: Any, token: Any) -> None:
    weights = published_weights(config, cache_dir=cache_dir, token=token)
    load_backbone_weights(model, config, weights.files)
    tag = f".{weights.tag}" if weights.tag else ""
    origin = f"backbone:{config.model_name}{tag}"
    model.weights_origin = origin  # type: ignore[assignment]
    log.info(
        "%s: pretrained weights of the backbone %s%s %s", model.moezoo_name, config.model_name, tag, _under_what(model)
    )


def _under_what(model: nn.Module) -> str:
    """What a fresh MoE makes of its backbone's weights at step 0."""
    report: Any = getattr(model, "upcycle_report", None)
    if report is None:
        return "under a fresh MoE, the identity at step 0"
    if report.preserved:
        return "in every expert: at step 0 the model computes what the backbone does"
    why = next(site.why for site in report.sites if site.why)
    return f"in the experts; the model does not compute what the backbone does: {why}"


def _from_stored(name: str, pretrained: bool | str, cache_dir: Any, token: Any, overrides: dict[str, Any]) -> nn.Module:
    if pretrained not in (True, False, "full"):
        raise ConfigError(f"pretrained={pretrained!r} is not allowed for a stored model: it must be True or False.")
    with unchanged(name):
        stored = read_stored(name, cache_dir=cache_dir, token=token)
        config = override(stored.config, stated(type(stored.config), overrides), where=name)
        model = load_stored(stored, config, build) if pretrained else build(config)
        if pretrained:
            _give_tokenizer(model, config, stored.tokenizer_text(), f"{stored.source}: tokenizer.json")
    if not pretrained:
        log.info("%s: built from the stored configuration with fresh weights; pass pretrained=True to load them", name)
        if stored.compression is not None:
            log.info("%s: the stored model is pruned or quantised; the one with fresh weights is not", name)
    _sign(model, stored.name, config, name if pretrained else "fresh", _labels(stored, config))
    _prepare_alike(model, config, stored)
    return model


def _labels(stored: StoredModel, config: Any) -> Any:
    """The stored names of the classes, unless the model has other classes."""
    classes = [getattr(each, "num_classes", None) for each in (stored.config, config)]
    return stored.label_names if classes[0] == classes[1] else None


def _give_tokenizer(model: nn.Module, config: Any, text: str | None, where: str) -> None:
    """Let the model read text as the stored one did; its embedding means nothing under another vocabulary."""
    if text is None:
        return
    from moezoo.data.text import Tokenizer

    size = getattr(config, "vocab_size", None)
    try:
        tokenizer = Tokenizer.from_json(text)
    except DataError as error:
        raise WeightsCorrupted(f"{where}: {error}") from None
    if size is not None and tokenizer.vocab_size > size:
        raise WeightsMismatch(f"{where} has {tokenizer.vocab_size:,} tokens, the model vocab_size={size:,}")
    model.tokenizer = tokenizer  # type: ignore[assignment]


def _prepare_alike(model: nn.Module, config: Any, stored: StoredModel) -> None:
    """Let images be prepared as they were for the stored model, as far as size and channels are the same."""
    cfg = getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, dict):
        return
    data = dict(stored.data)
    size = data.pop("input_size", None)
    if size is not None and getattr(config, "in_chans", None) == getattr(stored.config, "in_chans", None):
        if getattr(config, "img_size", None) == getattr(stored.config, "img_size", None):
            data["input_size"] = size
    else:  # one value per channel
        data = {key: value for key, value in data.items() if key not in ("mean", "std")}
    model.pretrained_cfg = model.default_cfg = {**cfg, **data}  # type: ignore[assignment]


def _take_company(model: nn.Module, path: str | Path) -> None:
    """Names of the classes and tokenizer, where the file of the weights has them with it."""
    found = read_single_file(path)
    if found is None:
        return
    if found.label_names is not None and len(found.label_names) == getattr(model, "num_classes", None):
        model.label_names = found.label_names  # type: ignore[assignment]
    if getattr(model, "takes_text", False):
        _give_tokenizer(model, model.moezoo_config, found.tokenizer, f"{str(path)!r}: its tokenizer")


def _features(model: nn.Module, out_indices: Any) -> nn.Module:
    features = FeatureModel(model, out_indices)
    _sign(features, model.moezoo_name, model.moezoo_config, model.weights_origin, None)  # type: ignore[arg-type]
    return features


def _sign(model: nn.Module, name: str, config: Any, origin: str, label_names: Any) -> None:
    signature = {
        "moezoo_name": name,
        "moezoo_config": config,
        "weights_origin": origin,
        "label_names": tuple(label_names) if label_names else None,
    }
    for key, value in signature.items():
        setattr(model, key, value)
