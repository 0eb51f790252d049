"""The model card: what the Hub shows about a model, made from its ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from moezoo.hub.card_text import compressed, dense_twin, dial, finds_identities, introduction, limits, usage

PLACE = "local-dir:PATH/TO/THIS/FOLDER"
"""Stands on a card where the name of the model will be once it is published."""
TAGS = ["mixture-of-experts", "moe", "moezoo"]
_METRICS = {
    "top1": ("accuracy", "Top-1 accuracy"),
    "top5": ("top_5_accuracy", "Top-5 accuracy"),
    "calibration_error": ("expected_calibration_error", "Expected calibration error"),
}
_SPLITS = {"test": "test", "val": "validation", "": "test"}


def model_card(
    stored: Mapping[str, Any], pretrained_cfg: Any = None, *, repo_id: str | None = None, parent: str | None = None
) -> str:
    """The README.md text of a stored model.

    Args:
        stored: The content of its ``config.json``.
        pretrained_cfg: timm's configuration of the weights that the backbone began with, if it did; gives the licence
            and the base model.
        repo_id: Where the model is published, if it is.
        parent: The repository of the model that this one began as; it is the base model then.
    """
    cfg = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else getattr(pretrained_cfg, "__dict__", {})
    config, metrics = stored["config"], stored.get("metrics") or {}
    features = config.get("num_classes") == 0 or finds_identities(config)
    task = "image-feature-extraction" if features else "image-classification"
    task = "image-to-text" if config.get("captioner") else task
    results = _results(metrics, task)
    licence, base_model = cfg.get("license"), parent or _base_model(stored, cfg)
    data = ModelCardData(
        license=str(licence or "unknown"),
        tags=[task, *TAGS],
        library_name="moezoo",
        pipeline_tag=task,
        base_model=base_model,
        datasets=[_slug(metrics["dataset"])] if metrics.get("dataset") else None,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=str(stored["name"]) if results else None,
        eval_results=results or None,
    )
    place = f"hf-hub:{repo_id}" if repo_id else PLACE
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {stored['name']}",
        introduction(stored),
        *_section("How to use", usage(stored, place)),
        *_backbone(stored),
        *_section("Metrics", _table(("metric", "value"), metrics.items())),
        *_routing(stored.get("routing") or ()),
        *_cost(stored, place),
        *_section("Images", _table(("setting", "value"), (stored.get("data") or {}).items())),
        *_section("Limits", limits(stored, licence, base_model)),
        *_section("Configuration", _table(("field", "value"), [row for row in config.items() if row[1] is not None])),
    ]
    return str(ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False))


def published_at(card: str, repo_id: str) -> str:
    """The card with the name under which the model can now be created."""
    return card.replace(PLACE, f"hf-hub:{repo_id}")


def local_card(card: str, source: str) -> str:
    """The reverse, for a copy of the model ``source``, so that the copy can be published elsewhere."""
    return card.replace(f'"{source.partition("@")[0]}"', f'"{PLACE}"')


def _results(metrics: Mapping[str, Any], task: str) -> list[EvalResult]:
    """What of the metrics the Hub's leaderboards understand: ``[<split>_]top1`` and the like, of a named data set."""
    name = metrics.get("dataset")
    if not isinstance(name, str) or not name:
        return []
    found = []
    for key, value in metrics.items():
        split, _, kind = key.partition("_") if key.startswith(("test_", "val_")) else ("", "", key)
        if kind in _METRICS and isinstance(value, (int, float)) and not isinstance(value, bool):
            metric, words = _METRICS[kind]
            found.append(
                EvalResult(
                    task_type=task,
                    dataset_type=_slug(name),
                    dataset_name=name,
                    dataset_split=_SPLITS[split],
                    metric_type=metric,
                    metric_name=f"{words} ({_SPLITS[split]})",
                    metric_value=value,
                )
            )
    return found


def _slug(name: Any) -> str:
    return re.sub(r"[^a-z0-9._/-]+", "-", str(name).lower()).strip("-") or "unknown"


def _base_model(stored: Mapping[str, Any], cfg: Mapping[str, Any]) -> str | None:
    if (stored.get("backbone") or {}).get("id", "").count("/") == 1:
        return str(stored["backbone"]["id"])
    if cfg.get("hf_hub_id"):
        return str(cfg["hf_hub_id"]).partition("@")[0]
    return f"timm/{cfg['architecture']}" if cfg.get("architecture") and cfg.get("url") else None


def _backbone(stored: Mapping[str, Any]) -> list[str]:
    """Where the backbone comes from, if it is not in the files."""
    source = stored.get("backbone")
    if not source:
        return []
    at = f"`{source['id']}`" + (f" at revision `{source['revision']}`" if source.get("revision") else "")
    return [f"The files hold the MoE and the head alone. The backbone is {at}; it is fetched and checked by its hash."]


def _routing(loads: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [
        (
            load["layer"],
            len(load["share"]) if isinstance(load.get("share"), (list, tuple)) else load.get("num_experts", ""),
            *(load.get(key, "") for key in ("load_entropy", "max_share", "min_share")),
            len(load["dead_experts"]) if isinstance(load.get("dead_experts"), (list, tuple)) else "",
            load.get("drop_rate", ""),
        )
        for load in loads
    ]
    heads = ("layer", "experts", "load entropy", "largest share", "smallest share", "dead experts", "dropped")
    note = "\n\nA load entropy of 1 is an even load of the experts, 0 is one expert for everything."
    return _section("Routing", _table(heads, rows) + note) if rows else []


def _cost(stored: Mapping[str, Any], place: str) -> list[str]:
    flops = stored.get("flops") or {}
    rows = [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) else value) for name, value in flops.items()
    ]
    text = [_table(("FLOPs of one image", "value"), rows) + "\n\nA multiply-add counts as 2."] if rows else []
    text += [sentence for sentence in (compressed(stored), dial(stored), dense_twin(stored, place)) if sentence]
    return _section("Cost", "\n\n".join(text)) if text else []


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}\n\n{text}"] if text else []


def _table(heads: Sequence[str], rows: Any) -> str:
    lines = ["| " + " | ".join(_cell(item) for item in row) + " |" for row in rows]
    return "\n".join([f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *lines]) if lines else ""


def _cell(item: Any) -> str:
    text = f"{item:.6g}" if isinstance(item, float) else str(item)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
