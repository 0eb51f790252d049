"""One trained model at several budgets: what accuracy costs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils.data import Dataset

from moezoo.errors import ConfigError
from moezoo.eval.answers import placed
from moezoo.eval.budget import BudgetLatency, BudgetReport
from moezoo.eval.evaluate import evaluate
from moezoo.eval.plain import plain
from moezoo.measure.calling import device_of
from moezoo.measure.latency import latency
from moezoo.moe.checks import check_probability
from moezoo.moe.dial import set_budget
from moezoo.moe.modes import evaluating
from moezoo.moe.routers.split import SplitRouter


@dataclass(frozen=True)
class FrontPoint:
    """A model at one budget."""

    setting: float | None
    """The share of every image's tokens that the big experts get; ``None`` leaves it to the router, as trained."""
    accuracy: float
    budget: BudgetReport
    metrics: Mapping[str, float]
    """The registered metrics that were asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return plain(dataclasses.asdict(self))

    @property
    def ratio(self) -> float:
        """Mean share of the tokens that went to the big experts."""
        return self.budget.ratio.mean

    @property
    def flops(self) -> float:
        """Median FLOPs of an image."""
        return self.budget.flops_per_image.p50


def evaluate_front(
    model: nn.Module,
    dataset: Dataset,
    budgets: Sequence[float | None],
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    metrics: Sequence[str] | None = (),
    progress: Callable[[int], None] | None = None,
) -> tuple[FrontPoint, ...]:
    """Evaluate ``model`` at each of ``budgets``, by :func:`moezoo.set_budget`; nothing is trained.

    Args:
        model: With routers between a big and a small expert. Run in evaluation mode, and left as it was, its dial too.
        dataset: Items ``(image, label)``.
        budgets: From 0 to 1; ``None`` is the model as it was trained.
        batch_size: Images per forward.
        num_workers: Processes that read the images; 0 reads them here.
        metrics: As of :func:`evaluate`.
        progress: Called after every batch with its number of images; every budget reads all of them.

    Raises:
        ConfigError: A budget is out of range, there is none, or the model has no such router.
        InputError: As of :func:`evaluate`.
    """
    wanted = check_budgets(budgets)
    points = []
    for setting in wanted:
        with at_budget(model, setting):
            found = evaluate(
                model, dataset, batch_size=batch_size, num_workers=num_workers, metrics=metrics, progress=progress
            )
        assert found.classification is not None
        assert found.budget is not None
        points.append(FrontPoint(setting, found.classification.top1, found.budget, found.metrics))
    return tuple(points)


def check_budgets(budgets: Sequence[float | None]) -> tuple[float | None, ...]:
    """``budgets``, each a share or ``None``.

    Raises:
        ConfigError: One is not, or there is none.
    """
    if isinstance(budgets, str) or not len(budgets):
        raise ConfigError(f"budgets={budgets!r} is not allowed: it must be one or more shares from 0 to 1.")
    return tuple(None if b is None else check_probability(f"budgets[{i}]", b) for i, b in enumerate(budgets))


@contextmanager
def at_budget(model: nn.Module, budget: float | None) -> Iterator[None]:
    """``model`` at ``budget`` for a while; ``None`` is as it was trained. Afterwards its dial is where it was.

    Raises:
        ConfigError: As of :func:`moezoo.set_budget`.
    """
    dials = [
        (router, name, getattr(router, name))
        for router in model.modules()
        if isinstance(router, SplitRouter)
        for name in ("budget", "threshold_override")
        if hasattr(router, name)
    ]
    try:
        for router, name, _ in dials:
            setattr(router, name, None)
        set_budget(model, budget)
        yield
    finally:
        for router, name, value in dials:
            setattr(router, name, value)


def budget_latency(model: nn.Module, images: Tensor, *, rounds: int = 20) -> BudgetLatency:
    """Time ``model`` as its dial is, and with every token to the big experts, in turns.

    Args:
        model: With routers between a big and a small expert. Run in evaluation mode, and left as it was.
        images: (B, C, H, W).
        rounds: Timed forwards of each.

    Raises:
        ConfigError: ``rounds`` is not at least 1, or the model has no such router.
    """
    images = placed(model, images)
    with at_budget(model, 1.0):
        pass  # refuses a model without a dial
    routers = [(router, router.budget) for router in model.modules() if isinstance(router, SplitRouter)]

    def full() -> None:
        for router, _ in routers:  # not at_budget, which looks for them each time
            router.budget = 1.0
        try:
            model(images)
        finally:
            for router, budget in routers:
                router.budget = budget

    with evaluating(model):
        ways = {"routed": lambda: model(images), "full": full}
        found = latency(ways, rounds=rounds, baseline="full", device=device_of(model))
    ratio = found["routed"].ratio
    assert ratio is not None
    return BudgetLatency(len(images), found["routed"].p50 / len(images), found["full"].p50 / len(images), ratio)
