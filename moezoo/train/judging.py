"""Judging the weights: the validation of an epoch, and the test at the end of a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch.utils.data import Dataset

from moezoo.data import Splits
from moezoo.errors import DataError
from moezoo.eval import BudgetReport, Evaluation, LayerLoad
from moezoo.eval.budget import budget_report
from moezoo.moe.dial import set_progress
from moezoo.moe.modes import evaluating
from moezoo.train.keeping import Keeper
from moezoo.train.parts import Parts
from moezoo.train.signals import StopSignals
from moezoo.train.tasks.base import Columns, Content, Judgement
from moezoo.train.validate import predict_together


class Asked(Exception):
    """A signal came during validation or the test. The model has its own weights again, and can be saved."""


class Judge:
    """Asks the model of a run about held-out images. Collective."""

    def __init__(self, parts: Parts, keeper: Keeper, signals: StopSignals):
        self.parts, self.keeper, self.signals = parts, keeper, signals

    def validate(self) -> tuple[Judgement, tuple[LayerLoad, ...]]:
        """Of the averaged weights, where there are some.

        Raises:
            Asked: To stop.
        """
        parts, kept = self.parts, self.keeper.ema
        with self._averaged():
            parts.parallel.share_statistics(parts.model)
            if kept is not None:
                kept.take()  # the same, but for the statistics
            judged = getattr(parts.splits, parts.judged_on)
            columns, routing = self._predict(judged, self._answer, parts.stepper.autocast)
        return parts.task.judge(columns), routing

    def test(self) -> tuple[Evaluation, Evaluation | None]:
        """Of the kept weights and, where the task wants them too, of the last epoch's.

        Raises:
            Asked: To stop.
            DataError: An image cannot be read.
        """
        parts, standing = self.parts, self.keeper.standing
        last: Evaluation | None = None
        try:
            if parts.task.reports_last and standing.kept is not standing.history[-1]:
                with self._averaged():
                    last = self._measure()
            with self.keeper.best_weights.in_place():
                test = self._measure()
            self._leave_if_asked()
        except DataError as error:
            if self.keeper.newest is None:
                raise
            raise type(error)(
                f"{str(error).rstrip()}. The test leaves no image out. The training is done and kept in "
                f"{self.keeper.newest}: repair the file, and --resume auto goes on from there."
            ) from error
        return test, (last or test) if parts.task.reports_last else None

    def _averaged(self) -> AbstractContextManager:
        """Inside, the model has the averaged weights, where there are some."""
        return self.keeper.ema.in_place() if self.keeper.ema is not None else nullcontext()

    def _measure(self) -> Evaluation:
        """The test of the weights in place, as anyone would who loads the saved model: in their own precision."""
        parts = self.parts
        columns, routing = self._predict(parts.splits.test, self._answer, nullcontext)
        with evaluating(parts.model):
            ask = parts.task.final(parts.model)
        more = self._predict(parts.splits.test, ask, nullcontext)[0] if ask is not None else None
        budget = self._budget()
        return dataclasses.replace(parts.task.report(columns, more, routing), budget=budget)

    def _budget(self) -> BudgetReport | None:
        """What each test image cost, where they may differ; every process asks all of them."""
        parts, config, cost = self.parts, self.parts.config, self.parts.meter.cost
        if cost is None or not isinstance(parts.splits, Splits):
            return None
        return budget_report(
            parts.model, parts.splits.test, batch_size=2 * config.batch_size, num_workers=config.num_workers, cost=cost
        )

    def _answer(self, content: Content) -> Columns:
        return self.parts.task.answer(self.parts.model, content)

    def _predict(
        self, dataset: Dataset, answer: Callable[[Content], Columns], autocast: Callable[[], AbstractContextManager]
    ) -> tuple[Columns, tuple[LayerLoad, ...]]:
        parts, config = self.parts, self.parts.config
        set_progress(parts.model, 1.0)  # as the model will be when it is loaded
        return predict_together(
            parts.model,
            dataset,
            parts.task,
            answer,
            parts.parallel,
            parts.meter,
            batch_size=2 * config.batch_size,
            num_workers=config.num_workers,
            autocast=autocast,
            check=self._leave_if_asked,
        )

    def _leave_if_asked(self) -> None:
        if self.parts.parallel.any(self.signals.requested is not None):
            raise Asked
