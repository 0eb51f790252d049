"""The course of a run: epochs of steps, each epoch validated, and the test at the end."""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import NoReturn

from moezoo.errors import Interrupted
from moezoo.eval import Evaluation
from moezoo.moe.dial import followers, tell_progress
from moezoo.train.batches import Batch
from moezoo.train.ema import warmed_up
from moezoo.train.health import CollapseWatch
from moezoo.train.judging import Asked, Judge
from moezoo.train.keeping import Keeper
from moezoo.train.modes import training_mode
from moezoo.train.output import write_json
from moezoo.train.parts import Parts
from moezoo.train.progress import EpochHook, Observer
from moezoo.train.result import EpochMetrics, TrainingResult
from moezoo.train.seeding import restored
from moezoo.train.signals import StopSignals
from moezoo.train.standing import Standing

logger = logging.getLogger(__name__)


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
        self.judge = Judge(parts, keeper, signals)
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
            test, last = self._test()
        self.keeper.best_weights.give()
        parts.parallel.release(parts.model)
        parts.model.eval()
        kept = standing.kept
        assert kept is not None
        seconds = sum(metrics.seconds for metrics in standing.history)
        result = TrainingResult(tuple(standing.history), kept.epoch, test, seconds, last)
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
        begin = time.perf_counter()
        parts = self.parts
        try:
            judgement, routing = self.judge.validate()
        except Asked:
            self._stop()
        parts.bad_files.merge(parts.parallel.gather(parts.bad_files.reasons))
        seconds = time.perf_counter() - begin
        use = parts.meter.use(routing)
        return self.standing.end_epoch(judgement, parts.task.score, seconds, routing, use, parts.judged_on)

    def _test(self) -> tuple[Evaluation, Evaluation | None]:
        try:
            return self.judge.test()
        except Asked:
            self._stop()

    def _waited_enough(self) -> bool:
        patience = self.config.early_stopping
        if patience is None or self.standing.waited < patience:
            return False
        logger.info("no better validation in %d epochs: the run ends", patience)
        return True

    def _stop_if(self, asked: bool) -> None:
        if asked:
            self._stop()

    def _stop(self) -> NoReturn:
        """Save and leave; every process comes here at the same step."""
        saved = self.keeper.save()
        place = f"step {self.standing.step}, in epoch {self.standing.epoch}"
        kept = f"is saved in {saved}; --resume auto goes on from there" if saved else "is the last and not saved"
        raise Interrupted(self.signals.requested or 15, f"{place}, {kept}")
