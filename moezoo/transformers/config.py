"""A moezoo configuration in transformers' clothes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PretrainedConfig

from moezoo.backbones.live import current_config
from moezoo.config import to_dict
from moezoo.errors import ConfigError
from moezoo.hub.schema import DATA_FIELDS, MODEL_TYPE
from moezoo.registry import model_config


class MoeZooConfig(PretrainedConfig):
    """Which model, and what its classes are called.

    Args:
        moezoo_name: A registered name, ``entity_moe/vit_base.last``, in either spelling.
        moezoo_config: Fields of the family's configuration, those that are left out as the name has them.
        data: How images are prepared (``input_size``, ``mean``, ``std``, ``interpolation``, ``crop_pct``,
            ``crop_mode``).
        **kwargs: As of ``PretrainedConfig``. ``num_labels`` and ``id2label`` win over ``num_classes``.

    Raises:
        UnknownModelError: No such model, with the nearest names.
        ConfigError: A field is unknown, ill-typed or out of range.
    """

    model_type = MODEL_TYPE

    def __init__(
        self,
        moezoo_name: str = "entity_moe/vit_base.last",
        moezoo_config: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ):
        fields = model_config(moezoo_name, **(moezoo_config or {}))
        if kwargs.get("num_labels") is None and kwargs.get("id2label") is None:
            kwargs["num_labels"] = getattr(fields, "num_classes", None) or 0
        super().__init__(**kwargs)
        if not self.num_labels:
            raise ConfigError(f"{moezoo_name!r} does not say how many classes there are; give num_labels=.")
        self.moezoo_name = moezoo_name
        self.moezoo_config = {**to_dict(fields), "num_classes": self.num_labels}
        self.data = dict(data or {})

    def family_config(self) -> Any:
        """The family's dataclass, for as many classes as there are labels now."""
        return model_config(self.moezoo_name, **{**self.moezoo_config, "num_classes": self.num_labels})

    @classmethod
    def of(cls, model: nn.Module, **kwargs: Any) -> MoeZooConfig:
        """The configuration of a model that moezoo built, as it is now.

        Raises:
            ConfigError: moezoo did not build it.
        """
        name, config = getattr(model, "moezoo_name", None), getattr(model, "moezoo_config", None)
        if not isinstance(name, str) or config is None:
            raise ConfigError(
                f"{type(model).__name__} has no moezoo_config, so nothing could rebuild it. Build it by "
                "moezoo.create_model."
            )
        fields = to_dict(current_config(model, config))
        cfg = getattr(model, "pretrained_cfg", None) or {}
        data = {key: cfg[key] for key in DATA_FIELDS if cfg.get(key) is not None}
        labels = getattr(model, "label_names", None)
        if labels and len(labels) == fields.get("num_classes"):
            kwargs = {**_labels(labels), **kwargs}
        return cls(name, fields, data, **kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Reads what :func:`moezoo.save_pretrained` writes too."""
        if is_moezoos(config_dict):
            labels = config_dict.get("label_names")
            config_dict = {
                "moezoo_name": config_dict.get("name"),
                "moezoo_config": config_dict.get("config"),
                "data": config_dict.get("data"),
                **(_labels(labels) if labels and not {"num_labels", "id2label"} & set(kwargs) else {}),
            }
        if "num_labels" in kwargs and "id2label" not in kwargs and kwargs["num_labels"] != _count(config_dict):
            config_dict = {key: value for key, value in config_dict.items() if key not in ("id2label", "label2id")}
        return super().from_dict(config_dict, **kwargs)


def is_moezoos(config_dict: Mapping[str, Any]) -> bool:
    """Whether a ``config.json`` is of :func:`moezoo.save_pretrained` rather than of transformers."""
    return "format_version" in config_dict and "moezoo_name" not in config_dict


def _labels(names: Any) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}


def _count(config_dict: Mapping[str, Any]) -> int:
    return len(config_dict.get("id2label") or ())
