"""What goes with the weights of a model: the names of its classes and its tokenizer."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.errors import ConfigError


def tokenizer_text(model: nn.Module, config: Any) -> str | None:
    """The model's tokenizer as it is stored; ``None`` where it has none.

    Raises:
        ConfigError: It has more tokens than ``config.vocab_size``.
    """
    tokenizer: Any = getattr(model, "tokenizer", None)
    if not hasattr(tokenizer, "to_json"):  # none, or a layer that is called so
        return None
    if (size := getattr(config, "vocab_size", None)) is not None:
        tokenizer.check_fits(size)
    return str(tokenizer.to_json())


def labels_of(model: nn.Module, num_classes: Any, given: Any = None) -> list[str] | None:
    """``given``, else the names that the model carries, unless ``reset_classifier`` made them those of another head.

    Raises:
        ConfigError: They are not one string per class.
    """
    labels = given
    if given is None:
        labels, config = getattr(model, "label_names", None), getattr(model, "moezoo_config", None)
        another_head = num_classes != getattr(config, "num_classes", num_classes)
        if labels is None or (another_head and len(labels) != num_classes):
            return None
    names = [labels] if isinstance(labels, str) else list(labels)
    if isinstance(labels, str) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"label_names must be a sequence of strings, one per class, got {labels!r:.80}")
    if num_classes is not None and len(names) != num_classes:
        raise ConfigError(f"label_names has {len(names)} names, the model has num_classes={num_classes}")
    return names
