"""What is measured of one trained model, at one setting of its dial."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from moezoo.errors import MoeZooError
from moezoo.eval import Evaluation
from moezoo.eval.answers import placed
from moezoo.eval.part import evaluate_part
from moezoo.measure.flops import flops
from moezoo.train import Recipe, TrainedRun
from moezoo.train.run import main_figures
from moezoo.train.tasks import AnySplits

FLOPS_IMAGES = 8
"""Test images that the FLOPs of a model are counted on, one by one, which does not report those of every image."""


@dataclass(frozen=True)
class Measured:
    """Accuracy, routing and cost. What a model has nothing of is ``None``."""

    val: float | None
    """On the validation images, which settings are chosen by."""
    test: float | None
    val_name: str
    test_name: str
    """What they are, ``val_accuracy`` for example."""
    seconds: float
    """Of training and validation; of a dial, of the two evaluations."""
    routing_ratio: float | None = None
    """Share of an image's tokens that meet the big expert, mean over the test images."""
    routing_ratio_sd: float | None = None
    """Its standard deviation over the images."""
    flops_p50: float | None = None
    """Executed, of one test image: the median."""
    flops_p95: float | None = None
    balance: float | None = None
    """Variance over the experts of their mean weight, mean over the gates, where the task reports their weights."""
    activation_rate: float | None = None
    """Share of the weights above a threshold."""
    stability: float | None = None
    """Variance of all weights."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Measured:
        """From what :meth:`to_dict` gave."""
        return Measured(**values)


def measure_run(run: TrainedRun) -> Measured:
    """What a finished run found out, and what its images cost."""
    best = run.result.best
    name, test = _test_figure(run.result.test)
    return Measured(
        _finite(best.score) if best.judged_on == "val" else None,
        test,
        f"val_{best.score_name}",
        name,
        run.result.seconds,
        **_cost(run.model, run.splits, run.result.test),
        **_gates(run.result.test),
    )


def measure_model(model: nn.Module, splits: AnySplits, recipe: Recipe) -> Measured:
    """The same of a model that is not trained again: both parts are evaluated, where there are two."""
    begin = time.perf_counter()
    options: dict[str, Any] = {"batch_size": 2 * recipe.training.batch_size, "num_workers": recipe.training.num_workers}
    val = evaluate_part(model, splits, "val", **options) if splits.val is not None else None
    test = evaluate_part(model, splits, "test", **options)
    name, figure = _test_figure(test)
    val_figure = _test_figure(val)[1] if val is not None else None
    seconds = time.perf_counter() - begin
    val_name = name.replace("test_", "val_", 1)
    return Measured(val_figure, figure, val_name, name, seconds, **_cost(model, splits, test), **_gates(test))


def _test_figure(report: Evaluation) -> tuple[str, float | None]:
    name, value = next(iter(main_figures(report).items()))
    return ("test_accuracy" if name == "test_top1" else name), _finite(value)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _cost(model: nn.Module, splits: AnySplits, test: Evaluation) -> dict[str, float | None]:
    """Routing ratio and FLOPs of single images, by their names in :class:`Measured`."""
    if test.budget is not None:
        ratio, spent = test.budget.ratio, test.budget.flops_per_image
        return {
            "routing_ratio": ratio.mean,
            "routing_ratio_sd": ratio.sd,
            "flops_p50": spent.p50,
            "flops_p95": spent.p95,
        }
    with contextlib.suppress(MoeZooError):  # a model that cannot be counted, a compiled one
        count = min(len(splits.test), FLOPS_IMAGES)  # type: ignore[arg-type]
        images = [placed(model, splits.test[i][0][None]) for i in range(count)]
        counted = torch.tensor([float(flops(model, image).executed) for image in images])
        return {"flops_p50": counted.quantile(0.5).item(), "flops_p95": counted.quantile(0.95).item()}
    return {}


def _gates(test: Evaluation) -> dict[str, float]:
    """How the gates were used, by the names in :class:`Measured`; empty where the task does not say."""
    usage = test.reid.usage if test.reid is not None else ()
    if not usage:
        return {}
    fields = ("balance", "activation_rate", "stability")
    return {field: sum(getattr(each, field) for each in usage) / len(usage) for field in fields}
