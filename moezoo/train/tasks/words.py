"""What the tasks with text share: a tokenizer that fits the model, and what it makes of sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from moezoo.data.text import make_tokenizer
from moezoo.errors import ConfigError, InputError
from moezoo.train.digest import digest

if TYPE_CHECKING:
    from moezoo.data.text import Tokenizer


class Words:
    """The model's tokenizer with the model's limits. A model without one gets one made of the training sentences.

    Args:
        model: Says by ``moezoo_config`` how many tokens it knows, and how many it takes.
        sentences: Of the training part alone.

    Raises:
        ConfigError: The tokenizer has more tokens than the model knows, or the model does not say.
    """

    def __init__(self, model: nn.Module, sentences: Callable[[], Iterable[str]]):
        config: Any = getattr(model, "moezoo_config", None)
        size, longest = (getattr(config, field, None) for field in ("vocab_size", "max_text_len"))
        if size is None or longest is None:
            raise ConfigError(
                f"{type(model).__name__} takes text, but has no moezoo_config with vocab_size and max_text_len"
            )
        found: Tokenizer | None = getattr(model, "tokenizer", None)
        if found is None:
            found = model.tokenizer = make_tokenizer(sentences(), vocab_size=size)  # type: ignore[assignment]
        assert found is not None
        found.check_fits(size)
        self.tokenizer = found
        self.longest: int = longest
        """Tokens the model takes, beginning and end among them."""

    def ids(self, sentence: str) -> list[int]:
        return self.tokenizer.encode_ids([sentence], self.longest)[0]

    def facts(self) -> dict[str, Any]:
        return {"tokenizer": digest(self.tokenizer.to_json())}


def field_of(output: Any, field: str, name: str) -> Tensor:
    """What the model called ``name`` answered under ``field``.

    Raises:
        InputError: Nothing.
    """
    value = output.get(field) if isinstance(output, Mapping) else None
    if not isinstance(value, Tensor):
        raise InputError(f"{name} must answer images and text with a mapping that has {field!r}")
    return value
