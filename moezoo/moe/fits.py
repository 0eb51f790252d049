"""Which routers go with which experts and losses."""

from __future__ import annotations

from collections.abc import Iterable

from moezoo.errors import ConfigError
from moezoo.moe.experts import Experts
from moezoo.moe.losses import OUTPUT_LOSSES
from moezoo.moe.routers import Router


def check_router_fits(name: str, router: Router, expert: str, experts: Experts, losses: Iterable[str]) -> None:
    """Refuse a router that could not give the experts or the losses what they need.

    Raises:
        ConfigError: Experts take whole maps, which the router could split; or a loss asks what an expert gave for a
            token, and the router mixes tokens.
    """
    if experts.whole_maps and not router.keeps_samples_whole:
        why = (
            "it mixes tokens. Allowed: 'per_image' and 'dense_softmax'"
            if router.mixes_tokens
            else "it may send the tokens of a map to different experts. Allowed: 'per_image', 'dense_softmax' and "
            "routers with top_k = num_experts"
        )
        raise ConfigError(
            f"router={name!r} is not allowed with expert={expert!r}, whose experts take whole maps: {why}, all "
            "without capacity_factor."
        )
    asked = [kind for kind in losses if kind in OUTPUT_LOSSES]
    if asked and router.mixes_tokens:
        raise ConfigError(
            f"aux_weights: {asked[0]!r} is not allowed with router={name!r}, which mixes tokens: what an expert gave "
            "for a token is not known."
        )
