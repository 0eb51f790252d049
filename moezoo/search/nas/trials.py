"""One worker of a search: ask for a design, train it, tell what it was worth, until there are enough."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moezoo.errors import ConfigError
from moezoo.search.choosing import Chance
from moezoo.search.constraints import make_filter
from moezoo.search.cost import Cost, design_cost
from moezoo.search.nas.study import Suggested, load_optuna, open_study, quiet, sampler_seed
from moezoo.search.progress import Watcher
from moezoo.search.spaces import Design, Space
from moezoo.search.store import place_of
from moezoo.search.trial import Trained, train_design
from moezoo.search.workers import EndWithParent, orphaned
from moezoo.train.result import EpochMetrics

if TYPE_CHECKING:
    import optuna

logger = logging.getLogger(__name__)

SUGGESTIONS = 20
"""Suggestions in a row that are no new design, before one is drawn at random."""
DRAWS = 5_000
"""Random draws that are no new design, before the space is taken to be exhausted."""


@dataclass(frozen=True)
class Task:
    """What all workers of a search need to know."""

    space: Space
    folder: Path
    trials: int
    assignments: tuple[str, ...]
    constraints: tuple[Any, ...]
    window: tuple[float, float] | None
    sampler: str
    pruning: bool
    seed: int
    flops_penalty: float
    """Taken off a score for every doubling of the FLOPs."""
    several: bool

    @property
    def startup(self) -> int:
        """Trials at random that the others are chosen and stopped by."""
        return max(4, self.trials // 4)

    def worth(self, score: float, flops: int) -> float:
        """What the sampler is to make large."""
        return score - self.flops_penalty * math.log2(max(flops, 1)) if self.flops_penalty else score


class Pruner(EndWithParent):
    """Tells a trial the score of every epoch, and stops it where that is not worth going on with."""

    def __init__(self, task: Task, trial: optuna.Trial, flops: int, watcher: Watcher, title: str):
        self.task, self.trial, self.flops = task, trial, flops
        self.shown = watcher.design(title)
        self.best: EpochMetrics | None = None
        self.seconds = 0.0

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self.shown.start(epochs, steps_per_epoch, done)
        self.epochs = epochs

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        self.shown.epoch(metrics, best)
        self.best, self.last = best, metrics.epoch
        self.seconds += metrics.seconds
        self.trial.report(self.task.worth(metrics.score, self.flops), metrics.epoch)
        if metrics.epoch < self.epochs and self.trial.should_prune():
            raise load_optuna().TrialPruned

    def stop(self) -> None:
        self.shown.stop()


def work(task: Task, number: int, watcher: Watcher, asking: AbstractContextManager[Any] | None = None) -> None:
    """Try designs until the study has ``task.trials``.

    Args:
        task: The search.
        number: Of this worker.
        watcher: Is told what happens.
        asking: A lock that only one worker holds at a time.
    """
    with quiet():
        study = open_task(task, number)
        while not orphaned():
            with asking or nullcontext():
                asked = _ask(study, task)
            if asked is None:
                return
            _try(study, task, *asked, watcher)


def open_task(task: Task, number: int = 0) -> optuna.Study:
    """The study of ``task``."""
    options: dict[str, Any] = {"startup": task.startup, "pruning": task.pruning, "several": task.several}
    study = open_study(task.folder, sampler=task.sampler, seed=0, **options)
    seed = sampler_seed(task.seed, number, len(study.get_trials(deepcopy=False)))
    return open_study(task.folder, sampler=task.sampler, seed=seed, **options)


def counted(study: optuna.Study, *states: str) -> list[Any]:
    """Trials that are designs of their own, of these states; by default the finished ones."""
    wanted = states or ("COMPLETE", "PRUNED")
    trials = study.get_trials(deepcopy=False)
    return [trial for trial in trials if trial.state.name in wanted and "design" in trial.user_attrs]


def give_up_abandoned(study: optuna.Study) -> None:
    """Trials that a killed worker left behind are asked for again; their folders have what was trained."""
    state = load_optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False):
        if trial.state == state.RUNNING:
            study.tell(trial.number, state=state.FAIL)
            if "design" in trial.user_attrs:
                study.enqueue_trial(trial.params)


def _ask(study: optuna.Study, task: Task) -> tuple[Any, Design, Cost] | None:
    """A trial of a new design that fits, and its cost; ``None`` where there are enough, or there is none."""
    running = counted(study, "RUNNING", "COMPLETE", "PRUNED")
    if len(running) >= task.trials:
        return None
    known = {trial.user_attrs["design"]: trial for trial in running}
    optuna = load_optuna()
    for _ in range(SUGGESTIONS):
        trial = study.ask()
        values = task.space.draw(Suggested(trial))
        design = Design(task.space.name, values) if values is not None else None
        if design is not None and (same := known.get(design.key)) is not None and same.value is not None:
            study.tell(trial, same.value)  # the sampler learns that this is known
            continue
        cost = _fitting(task, design) if design is not None and design.key not in known else None
        if design is None or cost is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        _note(trial, design)
        return trial, design, cost
    return _ask_chance(study, task, known)


def _ask_chance(study: optuna.Study, task: Task, known: dict[str, Any]) -> tuple[Any, Design, Cost] | None:
    chance = Chance(random.Random(sampler_seed(task.seed, -1, len(study.get_trials(deepcopy=False)))))
    for _ in range(DRAWS):
        chance.drawn = {}
        values = task.space.draw(chance)
        design = Design(task.space.name, values) if values is not None else None
        if design is None or design.key in known or (cost := _fitting(task, design)) is None:
            continue
        study.enqueue_trial(dict(chance.drawn))
        trial = study.ask()
        task.space.draw(Suggested(trial))
        _note(trial, design)
        return trial, design, cost
    logger.warning("%s: no design was found that was not tried: the search ends after %d", task.space.name, len(known))
    return None


def _fitting(task: Task, design: Design) -> Cost | None:
    """Its cost where it meets the constraints and lies in the window."""
    if not make_filter(task.space, task.constraints)(design.values):
        return None
    try:
        cost = design_cost(task.space, design.values, task.assignments)
    except ConfigError:
        return None
    return cost if task.window is None or task.window[0] <= cost.flops <= task.window[1] else None


def _note(trial: optuna.Trial, design: Design) -> None:
    trial.set_user_attr("values", dict(design.values))
    trial.set_user_attr("design", design.key)  # last: with it the trial counts


def _try(study: optuna.Study, task: Task, trial: Any, design: Design, cost: Cost, watcher: Watcher) -> None:
    optuna = load_optuna()
    pruner = Pruner(task, trial, cost.flops, watcher, design.words())
    place = place_of(task.folder, design)
    try:
        trained = train_design(task.space, design, place, task.assignments, pruner)
    except optuna.TrialPruned:
        assert pruner.best is not None
        best = pruner.best
        _tell_figures(trial, best.score, best.score_name, *cost, pruner.last, pruner.seconds)
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        watcher.finished(design.words(), None)
        return
    _tell_trained(trial, trained)
    study.tell(trial, task.worth(trained.score, trained.flops))
    watcher.finished(design.words(), trained.score)


def _tell_trained(trial: Any, found: Trained) -> None:
    figures: Sequence[Any] = (found.score, found.score_name, found.flops, found.parameters, found.epochs, found.seconds)
    _tell_figures(trial, *figures)


def _tell_figures(
    trial: Any, score: float, score_name: str, flops: int, parameters: int, epochs: int, seconds: float
) -> None:
    trial.set_user_attr(
        "found",
        {
            "score": score,
            "score_name": score_name,
            "flops": flops,
            "parameters": parameters,
            "epochs": epochs,
            "seconds": seconds,
        },
    )
