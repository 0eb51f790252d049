"""The course of a run: epochs of steps, each epoch validated, and the test at the end."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from torch.utils.data import Dataset

from moezoo.data import Splits
from moezoo.errors import DataError, Interrupted
from moezoo.eval import BudgetReport, Evaluation, LayerLoad
from moezoo.eval.budget import budget_report
from moezoo.moe.dial import followers, set_progress, tell_progress
from moezoo.moe.modes import evaluating
from moezoo.train.batches import Batch
from moezoo.train.ema import warmed_up
from moezoo.train.health import CollapseWatch
from moezoo.train.keeping import Keeper
from moezoo.train.modes import training_mode
from moezoo.train.output import write_json
from moezoo.train.parts import Parts
from moezoo.train.progress import EpochHook, Observer
from moezoo.train.result import EpochMetrics, TrainingResult
from moezoo.train.seeding import restored
from moezoo.train.signals import StopSignals
from moezoo.train.standing import Standing
from moezoo.train.tasks.base import Columns, Content
from moezoo.train.validate import predict_together

logger = logging.getLogger(__name__)


class _Asked(Exception):
    """A signal came during validation or the test."""


class Course:
    """A run from its first step, or the one it was resumed at, to its result: :meth:`train` → epochs → steps."""

    def __init__(
        self,
        parts: Parts,
        keeper: Keeper,
        signals: StopSignals,
        observer: Observer,
        on_epoch: EpochHook | None = None,
    ):
        self.parts, self.keeper, self.signals, self.observer = parts, keeper, signals, observer
        self.on_epoch = on_epoch
        self.config = parts.config
        self.watch = CollapseWatch(parts.model)
        self.followers = followers(parts.model)

    @property
    def standing(self) -> Standing:
        return self.keeper.standing

    def train(self) -> TrainingResult:
        """Every epoch that is left, then the test."""
        parts, standing = self.parts, self.standing
        for metrics in standing.history[-1:]:
            self._watch(metrics)
        self.observer.start(self.config.epochs, parts.reader.steps_per_epoch, self._scheduled(standing.position))
        with parts.reader.naming_crashes():
            try:
                while standing.epoch <= self.config.epochs and not self._waited_enough():
                    self._epoch()
            finally:
                self.observer.stop()
            test = self._test()
        self.keeper.best_weights.give()
        parts.parallel.release(parts.model)
        parts.model.eval()
        best = standing.best
        assert best is not None
        seconds = sum(metrics.seconds for metrics in standing.history)
        result = TrainingResult(tuple(standing.history), best.epoch, test, seconds)
        self.keeper.finish(lambda path: write_json(path / "metrics.json", result.to_dict()))
        return result

    def _epoch(self) -> None:
        """The steps that are left of the epoch, and its validation."""
        standing, reader = self.standing, self.parts.reader
        if not reader.done(standing.position):
            training_mode(self.parts.model)
            begin = time.perf_counter()
            for batches, position in reader.steps(standing.epoch, standing.position):
                begin = self._step(batches, position, begin)
        metrics = self._validate()
        if self.parts.parallel.is_main:
            self._watch(metrics)
        self._show(metrics)
        self.keeper.end_epoch(metrics)
        self.observer.epoch(metrics, standing.best or metrics)
        self._stop_if(self.parts.parallel.any(self.signals.requested is not None))

    def _watch(self, metrics: EpochMetrics) -> None:
        parts = self.parts
        self.watch.see(metrics, parts.schedule.progress(metrics.epoch * parts.reader.steps_per_epoch))

    def _show(self, metrics: EpochMetrics) -> None:
        """Let the caller look at the weights that were validated; nothing of the run changes by it."""
        parts, kept = self.parts, self.keeper.ema
        if self.on_epoch is None or not parts.parallel.undivided:
            return
        with kept.in_place() if kept is not None else nullcontext(), self.keeper.room_or_warning(), restored():
            if parts.parallel.is_main:
                self.on_epoch(parts.model, parts.splits, metrics)

    def _step(self, batches: list[Batch], position: int, begin: float) -> float:
        """One optimiser step with everything that follows from it; the time at its end."""
        parts, standing = self.parts, self.standing
        place = f"epoch {standing.epoch}, step {self._step_in_epoch(position)} of {parts.reader.steps_per_epoch}"
        parts.bad_files.see(skipped for batch in batches for skipped in batch.skipped)
        number = standing.step + 1
        scheduled = self._scheduled(position)
        lr = parts.schedule.apply(parts.optimizer, scheduled)
        tell_progress(self.followers, parts.schedule.progress(scheduled))
        if parts.parallel.world == 1:
            batches = [batch for batch in batches if batch.content is not None]
        measure = number % self.config.log_every == 0 or parts.meter.cost is not None
        values = parts.stepper(batches, measure=measure, stop=self.signals.requested is not None)
        if values.trouble:
            parts.refusals.see(place, values.trouble, batches)
            standing.skipped_steps = parts.refusals.skipped
        if values.updated and self.keeper.ema is not None and self.config.ema_decay is not None:
            self.keeper.ema.average(warmed_up(self.config.ema_decay, number))
        end = time.perf_counter()
        standing.add(values, position, lr, end - begin)
        self.keeper.end_step(values, lr, end - begin)
        self.observer.step(values.loss, values.routing, values.use)
        asked = self.signals.requested is not None  # by now; other processes learn of it in the next step
        self._stop_if(values.stop if parts.parallel.world > 1 else asked)
        return end

    def _step_in_epoch(self, position: int) -> int:
        images = self.parts.reader.batches.step * self.config.grad_accum_steps
        return -(-position // images)

    def _scheduled(self, position: int) -> int:
        """The steps of a run up to ``position`` of the present epoch, had it had this batch size from the beginning.

        It is the number of steps taken, unless a run was resumed with another batch size or number of processes: the
        schedule ends with the run all the same.
        """
        return (self.standing.epoch - 1) * self.parts.reader.steps_per_epoch + self._step_in_epoch(position)

    def _validate(self) -> EpochMetrics:
        """Of the averaged weights, where there are some."""
        begin = time.perf_counter()
        parts, kept = self.parts, self.keeper.ema
        try:
            with kept.in_place() if kept is not None else nullcontext():
                columns, routing = self._predict(parts.splits.val, self._answer, parts.stepper.autocast)
        except _Asked:  # the model has its own weights again, and only now can be saved
            self._stop_if(True)
        judgement = parts.task.judge(columns)
        parts.bad_files.merge(parts.parallel.gather(parts.bad_files.reasons))
        seconds = time.perf_counter() - begin
        return self.standing.end_epoch(judgement, parts.task.score, seconds, routing, parts.meter.use(routing))

    def _test(self) -> Evaluation:
        """Of the best weights, as anyone would who loads the saved model: in their own precision."""
        parts = self.parts
        try:
            with self.keeper.best_weights.in_place():
                columns, routing = self._predict(parts.splits.test, self._answer, nullcontext)
                with evaluating(parts.model):
                    ask = parts.task.final(parts.model)
                more = self._predict(parts.splits.test, ask, nullcontext)[0] if ask is not None else None
                budget = self._budget()
            self._leave_if_asked()
        except _Asked:
            self._stop_if(True)
        except DataError as error:
            if self.keeper.newest is None:
                raise
            raise type(error)(
                f"{str(error).rstrip()}. The test leaves no image out. The training is done and kept in "
                f"{self.keeper.newest}: repair the file, and --resume auto goes on from there."
            ) from error
        return dataclasses.replace(parts.task.report(columns, more, routing), budget=budget)

    def _budget(self) -> BudgetReport | None:
        """What each test image cost, where they may differ; every process asks all of them."""
        parts, config, cost = self.parts, self.config, self.parts.meter.cost
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
        parts = self.parts
        set_progress(parts.model, 1.0)  # as the model will be when it is loaded
        return predict_together(
            parts.model,
            dataset,
            parts.task,
            answer,
            parts.parallel,
            parts.meter,
            batch_size=2 * self.config.batch_size,
            num_workers=self.config.num_workers,
            autocast=autocast,
            check=self._leave_if_asked,
        )

    def _waited_enough(self) -> bool:
        patience = self.config.early_stopping
        if patience is None or self.standing.waited < patience:
            return False
        logger.info("no better validation in %d epochs: the run ends", patience)
        return True

    def _leave_if_asked(self) -> None:
        if self.parts.parallel.any(self.signals.requested is not None):
            raise _Asked

    def _stop_if(self, asked: bool) -> None:
        """Save and leave; every process comes here at the same step."""
        if asked:
            saved = self.keeper.save()
            place = f"step {self.standing.step}, in epoch {self.standing.epoch}"
            kept = f"is saved in {saved}; --resume auto goes on from there" if saved else "is the last and not saved"
            raise Interrupted(self.signals.requested or 15, f"{place}, {kept}")
