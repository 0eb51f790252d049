"""What is turned on a model from outside: how much compute its tokens may have, and how far its training is."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe.aux_calls import AuxCalls, aux_calls
from moezoo.moe.checks import check_probability
from moezoo.moe.routers.base import Router
from moezoo.moe.routers.score_threshold import ScoreThresholdRouter, check_threshold
from moezoo.moe.routers.split import SplitRouter


def set_budget(model: nn.Module, budget: float | None) -> None:
    """Give the big expert ``ceil(budget * L)`` of each sample's L tokens: the highest scores, ties to the first.

    It trades accuracy for time without training anew, in training mode too. It is no part of the weights: a saved model
    forgets it. A threshold set by :func:`set_threshold` is taken back.

    Args:
        model: With routers between a big and a small expert (``score_threshold``, ``random_fraction``,
            ``fixed_cells``).
        budget: From 0 (all to the small expert) to 1 (all to the big one); ``None`` takes an earlier one back.

    Raises:
        ConfigError: ``budget`` is out of range, or there is no such router.
    """
    value = None if budget is None else check_probability("budget", budget)
    for router in _routers(model, SplitRouter, "budget", budget):
        router.budget = value
        if value is not None and isinstance(router, ScoreThresholdRouter):
            router.threshold_override = None


def set_threshold(model: nn.Module, threshold: float | None) -> None:
    """Send every token whose score reaches ``threshold`` to the big expert, whatever threshold was learned.

    As :func:`set_budget`, whose budget is taken back.

    Args:
        model: With ``score_threshold`` routers.
        threshold: Above 0 and below 1; ``None`` takes an earlier one back.

    Raises:
        ConfigError: ``threshold`` is out of range, or there is no such router.
    """
    value = None if threshold is None else check_threshold("threshold", threshold)
    for router in _routers(model, ScoreThresholdRouter, "threshold", threshold):
        router.threshold_override = value
        if value is not None:
            router.budget = None


def set_progress(model: nn.Module, fraction: float) -> None:
    """Tell routers and losses that follow a schedule how far training is.

    A loop calls it before every step with the share of the steps that are done; a model that was never told is at the
    end of its schedules. Nothing happens to a model without any.

    Args:
        model: Any.
        fraction: 0 at the start, 1 at the end.

    Raises:
        ConfigError: ``fraction`` is out of range.
    """
    tell_progress(followers(model), fraction)


def followers(model: nn.Module) -> list[Router | AuxCalls]:
    """What :func:`set_progress` tells, for a loop that does not want to look for it before every step."""
    routers = [module for module in model.modules() if isinstance(module, Router)]
    return [*routers, *aux_calls(model)]


def tell_progress(told: Iterable[Router | AuxCalls], fraction: float) -> None:
    """:func:`set_progress` of the :func:`followers` of a model."""
    value = check_probability("fraction", fraction)
    for each in told:
        each.progress = value


def _routers(model: nn.Module, kind: type, argument: str, value: object) -> list:
    found = [module for module in model.modules() if isinstance(module, kind)]
    if not found:
        raise ConfigError(
            f"{argument}={value!r} has no effect: {type(model).__name__} has no router that decides between a big and "
            f"a small expert{' by scores' if kind is ScoreThresholdRouter else ''}."
        )
    return found
