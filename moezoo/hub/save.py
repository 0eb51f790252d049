"""``save_pretrained``: a folder with the weights, the configuration that rebuilds the model, and a card."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

import moezoo
from moezoo.altered.note import compression_of
from moezoo.backbones.live import current_config
from moezoo.config import decode, to_dict
from moezoo.errors import ConfigError, InputError
from moezoo.hub.card import model_card
from moezoo.hub.company import labels_of, tokenizer_text
from moezoo.hub.files import check_writable
from moezoo.hub.injected import Origin, origin_of, refuse_upcycled
from moezoo.hub.partial import without_backbone
from moezoo.hub.processor import processor_text
from moezoo.hub.schema import (
    CARD_NAME,
    CONFIG_LIMIT,
    DATA_FIELDS,
    FORMAT_VERSION,
    INDEX_NAME,
    MODEL_TYPE,
    PROCESSOR_NAME,
    TOKENIZER_NAME,
    DataConfig,
)
from moezoo.hub.shards import plan_shards
from moezoo.hub.state import portable_state, refuse_nonfinite, unwrapped
from moezoo.hub.swap import config_text, drafting, swap_in


def save_pretrained(
    model: nn.Module,
    dir: str | os.PathLike[str],
    *,
    metrics: Mapping[str, Any] | None = None,
    label_names: Sequence[str] | None = None,
    routing: Sequence[Any] | None = None,
    flops: Mapping[str, Any] | None = None,
    include_backbone: bool = True,
    max_shard_size: int | str = "5GB",
    backbone: str | None = None,
    backbone_args: Mapping[str, Any] | None = None,
    repo_id: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: bool | str | None = None,
) -> Path:
    """Write a model into a folder, in place of a model saved there before.

    That is the weights, ``config.json``, ``preprocessor_config.json`` for transformers and a card, ``README.md``; and
    ``tokenizer.json``, where ``model.tokenizer`` is set.

    Args:
        model: A model that moezoo built, or one of timm or transformers that :func:`moezoo.inject_moe` was applied to.
            ``torch.compile`` and data-parallel wrappers are seen through.
        dir: The folder; created if need be.
        metrics: Plain JSON data shown on the card, for example ``{"dataset": "digits", "test_top1": 0.81}``.
        label_names: One name per class; ``model.label_names`` by default.
        routing: The load of the experts, one entry per MoE layer (:class:`moezoo.eval.LayerLoad`, or mappings with its
            fields), shown on the card.
        flops: FLOPs of one image, name to number, for example ``{"executed": …, "dense_twin": …}``.
        include_backbone: ``False`` stores the MoE and the head alone. The backbone must be, bit for bit, the published
            one, which is fetched again when the model is loaded.
        max_shard_size: Above it the weights are dealt out to several files; bytes, or text such as ``"5GB"``.
        backbone: What an injected model's backbone is, where it does not say so itself: a timm architecture.
        backbone_args: What an injected model's timm backbone was created with, beyond classes, channels and image size.
        repo_id: Where the model will be published; for the card.
        cache_dir, token: To fetch the published backbone with, for ``include_backbone=False``.

    Returns:
        The folder.

    Raises:
        InputError: No configuration can rebuild the model (the text says why), its state holds more than plain tensors,
            or its backbone is not the published one.
        ConfigError: ``metrics`` is not plain JSON, the labels do not fit ``num_classes``, the tokenizer is larger than
            ``vocab_size``, or the pooling was changed.
        NonFiniteError: A tensor holds NaN or infinity; nothing is written.
        OutputError: The folder cannot be written; a model saved there before is still whole.
        HubError: The published backbone cannot be reached.
    """
    model = unwrapped(model)
    origin = origin_of(model, backbone, backbone_args)
    # Changes made by hand, by upcycling say, are no part of a configuration.
    refuse_upcycled(model)
    origin = dataclasses.replace(origin, config=current_config(model, origin.config))
    content = stored_config(model, origin, metrics=metrics, label_names=label_names, routing=routing, flops=flops)
    state = portable_state(model)
    refuse_nonfinite(state, "save_pretrained")
    tokenizer = tokenizer_text(model, origin.config)
    if not include_backbone:
        if content["compression"]:
            raise InputError(
                "include_backbone=False is not allowed with a pruned or quantised model: its backbone is not the "
                "published one."
            )
        state, config, source = without_backbone(model, origin.config, state, cache_dir=cache_dir, token=token)
        content["config"], content["backbone"] = to_dict(config), to_dict(source)
    plan, index = plan_shards(state, max_shard_size)
    # What began with fresh weights, or with a stored model's, owes nothing to timm's that can be known here.
    built_on = origin.data if content["backbone"] or origin.weights.startswith("backbone:") else None
    parent = origin.weights.removeprefix("hf-hub:").partition("@")[0] if origin.weights.startswith("hf-hub:") else None
    texts = {CARD_NAME: model_card(content, built_on, repo_id=repo_id, parent=parent)}
    if (processor := processor_text(content["data"])) is not None:
        texts[PROCESSOR_NAME] = processor
    folder = check_writable(dir)
    with drafting(folder) as staging:
        drafts = {name: staging / name for name in plan}
        for name, tensors in plan.items():
            save_file({key: state[key] for key in tensors}, drafts[name], metadata={"format": "pt"})
        if index is not None:
            drafts[INDEX_NAME] = staging / INDEX_NAME
            drafts[INDEX_NAME].write_text(index, encoding="utf-8")
        if tokenizer is not None:
            drafts[TOKENIZER_NAME] = staging / TOKENIZER_NAME
            drafts[TOKENIZER_NAME].write_bytes(tokenizer.encode("utf-8"))
        swap_in(folder, drafts, content, texts)
    return folder


def stored_config(
    model: nn.Module,
    origin: Origin,
    *,
    metrics: Any = None,
    label_names: Sequence[str] | None = None,
    routing: Sequence[Any] | None = None,
    flops: Any = None,
) -> dict[str, Any]:
    """What ``config.json`` says about ``model``; the hash of the weights is filled in later."""
    fields = to_dict(origin.config)
    cfg = origin.data or {}
    get = cfg.get if isinstance(cfg, Mapping) else lambda key: getattr(cfg, key, None)
    stated: dict[str, Any] = {key: get(key) for key in DATA_FIELDS if get(key) is not None}
    if "input_size" in stated and (size := fields.get("img_size")) is not None:
        sides = (size, size) if isinstance(size, int) else size
        stated["input_size"] = (*stated["input_size"][:1], *sides)
    data = to_dict(decode(DataConfig, stated, where="model.pretrained_cfg"))
    content = {
        "format_version": FORMAT_VERSION,
        "moezoo_version": moezoo.__version__,
        "model_type": MODEL_TYPE,
        "name": origin.name,
        "config": fields,
        "label_names": labels_of(model, fields.get("num_classes"), label_names),
        "data": {key: value for key, value in data.items() if value is not None} or None,
        "metrics": _plain("metrics", metrics),
        "routing": _loads(routing),
        "flops": _plain("flops", flops),
        "backbone": None,
        "compression": None if (said := compression_of(model)) is None else to_dict(said),
        "weights_sha256": "0" * 64,
        "tokenizer_sha256": None,
    }
    if (size := len(config_text(content).encode())) > CONFIG_LIMIT:
        raise ConfigError(
            f"config.json would have {size:,} bytes, more than the {CONFIG_LIMIT:,} that are read back; "
            "shorten label_names or metrics"
        )
    return content


def _plain(what: str, values: Any) -> dict[str, Any] | None:
    if values is None:
        return None
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(f"{what} must be a mapping of names to plain JSON values, got {values!r:.80}")
    for key, value in values.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{what}[{key!r}]={value!r:.80} is not plain JSON: {error}") from None
    return dict(values)


def _loads(routing: Sequence[Any] | None) -> list[dict[str, Any]] | None:
    """Dataclasses or mappings, one per MoE layer, as plain JSON."""
    if routing is None:
        return None
    entries = [dataclasses.asdict(load) if dataclasses.is_dataclass(load) else load for load in routing]  # type: ignore[arg-type]
    plain = [_plain(f"routing[{i}]", entry) or {} for i, entry in enumerate(entries)]
    for i, entry in enumerate(plain):
        if not isinstance(entry.get("layer"), str):
            raise ConfigError(f"routing[{i}] must name its layer, got {entry!r:.80}")
    return plain
