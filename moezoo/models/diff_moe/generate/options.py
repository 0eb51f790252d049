"""The options of text generation, checked. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from moezoo.config import STRICT, decode, option
from moezoo.errors import ConfigError

Length = Annotated[int, Ge(2), Le(65536)]
Token = Annotated[int, Ge(0)]


@dataclass(frozen=True)
class GenerationOptions:
    """How a text is generated. Lengths are in tokens, the beginning and the end of the text among them."""

    __pydantic_config__ = STRICT

    max_length: Length = option(30, "no text gets longer; one that reaches it stops without its end token")
    min_length: Annotated[int, Ge(0)] = option(5, "a text may not end before it would have this many tokens")
    num_beams: Annotated[int, Ge(1), Le(65536)] = option(
        4, "hypotheses per image: the width of the beam search; with do_sample the texts of which the best is taken"
    )
    do_sample: bool = option(False, "draw each token at random instead of searching for the most probable text")
    temperature: Annotated[float, Ge(1e-3), Le(1e3)] = option(
        1.0, "with do_sample: divides the logits; below 1 prefers the probable"
    )
    top_k: Annotated[int, Ge(1)] = option(
        50, "with do_sample: only this many most probable tokens; more than there are means all"
    )
    top_p: Annotated[float, Gt(0.0), Le(1.0)] = option(
        0.9, "with do_sample: only the fewest tokens whose probabilities reach this together"
    )
    repetition_penalty: Annotated[float, Ge(1e-3), Le(1e3)] = option(
        1.0, "above 1 makes tokens the text has less probable: divides positive logits, multiplies negative ones"
    )
    length_penalty: Annotated[float, Ge(-10.0), Le(10.0)] = option(
        1.0, "power of the length that the sum of log-probabilities is divided by; larger prefers longer texts"
    )
    no_repeat_ngram_size: Annotated[int, Ge(0)] = option(2, "no run of this many tokens comes twice; 0 lets it")
    early_stopping: bool | Literal["never"] = option(
        True,
        "when the beam search of an image ends: true, with num_beams finished texts of which the best is no worse than "
        "any unfinished one at its present length; false, when the worst of them is no worse; 'never', when no "
        "unfinished text can become better than the best finished one",
    )
    pad_id: Token = option(0, "token that fills up what follows the end of a text; never generated")
    bos_id: Token = option(1, "token a text begins with; never generated")
    eos_id: Token = option(2, "token a text ends with; may be the same as pad_id or bos_id")

    def __post_init__(self) -> None:
        if self.min_length > self.max_length:
            raise ConfigError(
                f"min_length={self.min_length} is not allowed: it must be at most max_length={self.max_length}."
            )
        unused = [name for name in ("temperature", "top_k", "top_p") if self._given(name)]
        if unused and not self.do_sample:
            raise ConfigError(
                f"{unused[0]}={getattr(self, unused[0])!r} is not allowed without do_sample=True: it shapes what "
                "tokens are drawn from."
            )

    def _given(self, name: str) -> bool:
        return getattr(self, name) != next(f.default for f in dataclasses.fields(self) if f.name == name)

    def within(self, positions: int) -> GenerationOptions:
        """The same with lengths that fit a model of so many ``positions``."""
        return dataclasses.replace(
            self, max_length=min(self.max_length, positions), min_length=min(self.min_length, positions)
        )


def generation_options(**given: Any) -> GenerationOptions:
    """The default options with ``given`` ones replaced.

    Raises:
        ConfigError: An option is unknown, ill-typed, out of range, or has no effect beside the others.
    """
    return decode(GenerationOptions, given, where="generate")
