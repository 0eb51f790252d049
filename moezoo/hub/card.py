"""The model card: what the Hub shows about a model, made from its ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

TAGS = ["image-classification", "mixture-of-experts", "moezoo"]


def model_card(stored: Mapping[str, Any], pretrained_cfg: Any = None, *, repo_id: str | None = None) -> str:
    """The README.md text of a stored model.

    Args:
        stored: The content of its ``config.json``.
        pretrained_cfg: The backbone's timm configuration, if any; gives the licence and the base model.
        repo_id: Where the model is published, if it is.
    """
    cfg = pretrained_cfg if isinstance(pretrained_cfg, Mapping) else getattr(pretrained_cfg, "__dict__", {})
    data = ModelCardData(
        license=str(cfg.get("license") or "unknown"),
        tags=TAGS,
        library_name="moezoo",
        pipeline_tag="image-classification",
        base_model=_base_model(cfg),
    )
    place = f"hf-hub:{repo_id}" if repo_id else "local-dir:PATH/TO/THIS/FOLDER"
    example = f'import moezoo\n\nmodel = moezoo.create_model("{place}", pretrained=True).eval()'
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {stored['name']}",
        f"A vision Mixture-of-Experts saved by moezoo {stored['moezoo_version']}.",
        f"## How to use\n\n```python\n{example}\n```",
    ]
    if stored.get("metrics"):
        parts.append("## Metrics\n\n" + _table("metric", "value", stored["metrics"]))
    if stored.get("data"):
        parts.append("## Images\n\n" + _table("setting", "value", stored["data"]))
    parts.append("## Configuration\n\n" + _table("field", "value", stored["config"]))
    return str(ModelCard("\n\n".join(parts) + "\n", ignore_metadata_errors=False))


def _base_model(cfg: Mapping[str, Any]) -> str | None:
    if cfg.get("hf_hub_id"):
        return str(cfg["hf_hub_id"]).partition("@")[0]
    return f"timm/{cfg['architecture']}" if cfg.get("architecture") and cfg.get("url") else None


def _table(key: str, value: str, rows: Mapping[str, Any]) -> str:
    lines = [f"| {key} | {value} |", "|---|---|"]
    return "\n".join([*lines, *(f"| {_cell(name)} | {_cell(item)} |" for name, item in rows.items())])


def _cell(item: Any) -> str:
    text = f"{item:.6g}" if isinstance(item, float) else str(item)
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
