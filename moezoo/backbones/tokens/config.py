"""What :func:`moezoo.inject_moe` may be told of token routing. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Lt

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError

Share: TypeAlias = Annotated[float, Ge(0.0), Le(1.0)]
Inside: TypeAlias = Annotated[float, Gt(0.0), Lt(1.0)]
Positive: TypeAlias = Annotated[float, Gt(0.0), Le(1000.0)]


@dataclass(frozen=True)
class TokenRoutingConfig:
    """Tokens of a pretrained transformer choose between a block's own MLP and a small one made from it."""

    __pydantic_config__ = STRICT

    router: Literal["threshold"] = option("threshold", "how tokens choose: by a score against a threshold")
    routes: Literal["mlp", "block"] = option(
        "mlp",
        "what tokens are routed to: a block's own MLP, or else a small one; or the whole block, attention and MLP, "
        "which the others skip (mixture of depths)",
    )
    small_ratio: Inside = option(0.25, "hidden width of the small MLP over the block's own")
    small_init: Literal["importance", "clustering", "contiguous", "random"] = option(
        "importance",
        "hidden units that the small MLP starts with: those of the largest weights, one for each cluster of units that "
        "read alike, the first ones, or random ones",
    )
    score: Literal["class_attention", "mean_attention", "received_attention", "learned", "random"] | None = option(
        None,
        "what a token is judged by: the class token's attention to it, that of the mean query, what it receives from "
        "all queries on average, a learned score, or lots, as a control; null takes the class token's where there is "
        "one, else the mean query's, and where whole blocks are routed what it receives. It is the attention of the "
        "same block, of a routed block that of the block before",
    )
    router_mode: Literal["learnable_threshold", "sigmoid_gate", "gumbel", "top_fraction"] = option(
        "learnable_threshold",
        "how scores become routes: against a learned threshold (straight-through), against a fixed one with soft "
        "weights, by Gumbel noise in training, or the best fraction of every image",
    )
    threshold_init: Inside = option(0.5, "threshold at first; by attention 0.5 is a patch that gets its even share")
    temperature: Positive = option(1.0, "of the sigmoid whose slope routes are learned by")
    temperature_final: Positive | None = option(None, "temperature at the end of training; null keeps it")
    fraction: Share = option(
        0.25, "tokens that top_fraction, or lots, give to the block's own MLP, and that a routed block takes"
    )
    budget: Share | None = option(
        1.0,
        "share of every image's tokens that the block's own MLP gets, whatever the router says; 1 is the backbone "
        "itself, null leaves it to the router, as training needs",
        null=True,
    )
    threshold: Inside | None = option(
        None, "threshold in place of the learned one and of a budget; null leaves it to the router"
    )
    budget_target: Share | None = option(
        0.5, "share of tokens that the budget loss asks for; null makes that loss a price", null=True
    )
    budget_weight: Annotated[float, Ge(0.0), Le(1000.0)] = option(10.0, "weight of the budget loss; 0 leaves it out")
    budget_scope: Literal["batch", "sample"] = option(
        "batch", "what has to meet the target: the mean over the batch, or every image"
    )
    budget_anneal: Share = option(0.0, "share of the training over which the target comes down from 1")

    def __post_init__(self) -> None:
        if self.routes == "block":
            self._check_block()
        if self.threshold is not None and self.budget not in (None, 1.0):
            raise ConfigError(
                f"threshold={self.threshold} is not allowed with budget={self.budget}: one of them decides, set the "
                "other to null."
            )
        if self.threshold is not None and self.score == "random":
            raise ConfigError(f"threshold={self.threshold} is not allowed with score='random', which has no scores.")

    def _check_block(self) -> None:
        """Refuse what means nothing where whole blocks are routed."""
        if self.score == "learned":
            raise ConfigError(
                "score='learned' is not allowed with routes='block': a block takes a share of each image's tokens, "
                "which gives a score no gradient. Allowed: null, 'received_attention', 'class_attention', "
                "'mean_attention', 'random'."
            )
        fields = {field.name: field.default for field in dataclasses.fields(TokenRoutingConfig)}
        for name in fields.keys() - {"router", "routes", "score", "fraction", "budget"}:
            if getattr(self, name) != fields[name]:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} does nothing with routes='block': blocks are skipped by a share "
                    "of each image's tokens (fraction, budget), and nothing is learned."
                )
