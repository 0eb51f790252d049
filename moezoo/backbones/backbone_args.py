"""What ``backbone_args`` may hold: it may come with somebody else's ``config.json``."""

from __future__ import annotations

from collections.abc import Iterable

from moezoo.errors import ConfigError

_FIELDS = ("num_classes", "in_chans", "img_size", "drop_rate", "drop_path_rate", "global_pool")
"""Arguments of a timm model that are fields of every family's configuration."""
_LOADING = (
    *("model_name", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
    *("pretrained_filter_fn", "checkpoint_path", "cache_dir", "features_only", "out_indices"),
)
"""Arguments of timm's ``create_model`` that say what is read or wrapped, not what the backbone is."""


def check_backbone_args(names: Iterable[str]) -> None:
    """Keep ``backbone_args`` to what the backbone is.

    Raises:
        ConfigError: A name is a field of its own, or would read files or wrap the model behind moezoo's back.
    """
    for name in names:
        if name in _FIELDS:
            raise ConfigError(f"backbone_args={{{name!r}: …}} is not allowed: {name} is a field of its own.")
        if name in _LOADING:
            raise ConfigError(
                f"backbone_args={{{name!r}: …}} is not allowed: weights and features are asked of create_model, by "
                "pretrained=, checkpoint_path= and features_only=."
            )
