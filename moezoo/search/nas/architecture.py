"""``ArchitectureSearch``: good designs of a space in a given number of short trainings."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from moezoo.errors import ConfigError, DistributedError, Interrupted, MoeZooError
from moezoo.eval.part import evaluate_part
from moezoo.hub.save import save_pretrained
from moezoo.moe.checks import check_choice, check_int, check_positive
from moezoo.search.compare import settings
from moezoo.search.constraints import Constraint, make_filter
from moezoo.search.cost import check_window
from moezoo.search.nas.result import Found, SearchResult
from moezoo.search.nas.study import SAMPLERS, load_optuna, mend, quiet
from moezoo.search.nas.trials import Task, counted, give_up_abandoned, open_task, work
from moezoo.search.progress import Unwatched, Watcher
from moezoo.search.sample import sample_space
from moezoo.search.spaces import Design, Space, find_space
from moezoo.search.store import claim, drop, place_of
from moezoo.search.trial import WEIGHTS, load_design
from moezoo.search.workers import GONE, check_workers, start_worker, threads_each
from moezoo.train.lock import own_run_folder
from moezoo.train.output import write_json
from moezoo.train.run import main_figures

DEFAULT = "multiscale_moe/synthetic"
BEST = "best"
POLL = 0.3
"""Seconds between looks at what the workers have done."""


class ArchitectureSearch:
    """Chooses designs by what was learnt from those before, trains each for a short while, and stops bad ones early.

    The choice is by validation images; the best design alone is tested, once. A journal in ``out`` keeps every trial:
    after a kill ``resume=True`` goes on, nothing finished is trained again, and a training under way goes on from its
    checkpoint. Needs ``pip install "moezoo[search]"``.

    Args:
        space: A :class:`~moezoo.search.Space` or its name; ``moezoo search spaces`` lists them.
        trials: Designs to try, those that are stopped early included.
        epochs: Of a training; by default the space's.
        data: A data set, in place of the space's own.
        workers: Processes that try designs at the same time.
        sampler: ``"tpe"`` (Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization") or ``"random"``.
        pruning: Stop a design whose validation score is below the median of the others' at the same epoch.
        flops_penalty: What a doubling of the FLOPs has to gain in score to be worth it to the sampler; the choice of
            the best and the front do not know it.
        constraints: On all designs, see :func:`~moezoo.search.constraints.make_filter`.
        flops_window: (low, high) of the executed FLOPs of one image.
        assignments: ``key=value`` of every recipe, as of ``moezoo train --set``.
        seed: Of the sampler and of every training.
        out: The search's folder; by default nothing is kept.
        resume: Go on with the search that lies in ``out``, also with more trials.
        overwrite: Drop it.
        vary: ``key=value,value`` for each key of a registered model's recipe that may differ; ``space`` is its name.
        watcher: Is told what happens, for example a :class:`~moezoo.search.progress.SearchBar`.

    Raises:
        ConfigError: An argument is not allowed, or there is no such space; with the nearest spelling.
    """

    def __init__(
        self,
        space: str | Space = DEFAULT,
        *,
        trials: int = 20,
        epochs: int | None = None,
        data: str | None = None,
        workers: int = 1,
        sampler: str = "tpe",
        pruning: bool = True,
        flops_penalty: float = 0.0,
        constraints: Sequence[Constraint] = (),
        flops_window: tuple[float, float] | None = None,
        assignments: Sequence[str] = (),
        seed: int = 0,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        vary: Sequence[str] = (),
        watcher: Watcher | None = None,
    ):
        self.space = find_space(space, vary)
        self.workers = check_workers("workers", workers)
        if resume and (overwrite or out is None):
            raise ConfigError("resume=True goes on with the search in out: give out, and not overwrite=True.")
        make_filter(self.space, constraints)
        self.options: dict[str, Any] = {
            "trials": check_int("trials", trials, low=1),
            "assignments": settings(self.space, seed, epochs, data, assignments),
            "constraints": tuple(constraints),
            "window": check_window(flops_window),
            "sampler": check_choice("sampler", sampler, SAMPLERS),
            "pruning": bool(pruning),
            "seed": seed,
            "flops_penalty": check_positive("flops_penalty", flops_penalty, zero=True),
        }
        self.out = Path(out) if out is not None else None
        self.resume, self.overwrite = resume, overwrite
        self.watcher = watcher if watcher is not None else Unwatched()

    def search(self) -> SearchResult:
        """Do it.

        Raises:
            MissingPackageError: Optuna is not installed.
            ConfigError: No design fits, or the space's models cannot be trained as asked.
            CheckpointError: ``out`` holds another search; what differs is named.
            OutputError: ``out`` cannot be written, or holds a search and neither ``resume`` nor ``overwrite`` is given.
            RunLockedError: Another process searches in ``out``.
            DistributedError: A worker was killed.
            Interrupted: A signal came.
        """
        load_optuna()
        (some,) = sample_space(  # finds that nothing fits before anything is written
            self.space,
            1,
            constraints=self.options["constraints"],
            flops_window=self.options["window"],
            assignments=self.options["assignments"],
        )
        self.space.check(some.values, self.options["assignments"])
        with self._folder() as folder, own_run_folder(folder):
            if self.overwrite:
                drop(folder)
            claim(folder, self._facts(), resume=self.resume)
            task = Task(self.space, folder, several=self.workers > 1, **self.options)
            mend(folder)
            with quiet():
                give_up_abandoned(open_task(task))
            self._try_all(task)
            result = self._result(task)
            result.write(folder)
        return result

    @contextlib.contextmanager
    def _folder(self) -> Iterator[Path]:
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            yield self.out
            return
        with tempfile.TemporaryDirectory(prefix="moezoo-search-") as folder:
            yield Path(folder)

    def _facts(self) -> dict[str, Any]:
        """What makes it this search; of more trials or workers it is the same."""
        facts = {key: value for key, value in self.options.items() if key != "trials"}
        facts["constraints"] = [each if isinstance(each, str) else repr(each) for each in facts["constraints"]]
        return {"kind": "nas", "space": self.space.name, "options": dict(self.space.options) or None, **facts}

    def _try_all(self, task: Task) -> None:
        with quiet():
            study = open_task(task)
            done = len(counted(study))
            self.watcher.begin(max(task.trials, done), done)
            try:
                if self.workers == 1:
                    work(task, 0, self.watcher)
                elif done < task.trials:
                    self._share(task, study, done)
            finally:
                self.watcher.stop()

    def _share(self, task: Task, study: Any, done: int) -> None:
        """Let processes work, and tell of every trial that they finish."""
        context = multiprocessing.get_context("spawn")
        asking, failures = context.Lock(), context.SimpleQueue()
        arguments = [
            (task, number, asking, failures, os.getpid(), threads_each(self.workers)) for number in range(self.workers)
        ]
        crew = [context.Process(target=_worker, args=each, daemon=True) for each in arguments]
        for process in crew:
            process.start()
        try:
            while any(process.is_alive() for process in crew):
                time.sleep(POLL)
                done = self._tell(study, done)
                _check_crew(crew, failures)
            self._tell(study, done)
            _check_crew(crew, failures)
        finally:
            for process in crew:
                process.terminate()
            for process in crew:
                process.join()

    def _tell(self, study: Any, done: int) -> int:
        finished = sorted(counted(study), key=lambda trial: trial.datetime_complete)
        for trial in finished[done:]:
            score = trial.user_attrs["found"]["score"] if trial.state.name == "COMPLETE" else None
            self.watcher.finished(Design(self.space.name, trial.user_attrs["values"]).words(), score)
        return len(finished)

    def _result(self, task: Task) -> SearchResult:
        with quiet():
            finished = counted(open_task(task))
        found = [_found(self.space, number, trial) for number, trial in enumerate(finished)]
        name = finished[0].user_attrs["found"]["score_name"] if finished else ""
        bare = SearchResult(self.space.name, name, tuple(found), {}, self.out)
        if not bare.best:
            return bare
        test = self._test_best(task, bare.best[0])
        front = {Design(self.space.name, each.values).key for each in (*bare.front, bare.best[0])}
        for trial in finished:  # no later trial brings a design back onto the front
            if trial.user_attrs["design"] not in front:
                (task.folder / "designs" / trial.user_attrs["design"] / WEIGHTS).unlink(missing_ok=True)
        return SearchResult(self.space.name, name, tuple(found), test, self.out)

    def _test_best(self, task: Task, best: Found) -> dict[str, float]:
        """On the test images, unless this design was tested before; its model is stored in ``best``."""
        design = Design(self.space.name, best.values)
        kept = _read_best(task.folder, design)
        if kept is not None:
            return kept
        model, splits = load_design(self.space, design, place_of(task.folder, design), task.assignments)
        test = figures_of(model, splits)
        if self.out is not None and hasattr(model, "moezoo_config"):
            shutil.rmtree(task.folder / BEST, ignore_errors=True)
            save_pretrained(model, task.folder / BEST, label_names=getattr(splits, "label_names", None))
        write_json(task.folder / f"{BEST}.json", {"design": design.key, "values": dict(best.values), "test": test})
        return test


def figures_of(model: Any, splits: Any) -> dict[str, float]:
    """The main figures of a model on the test images of ``splits``."""
    return main_figures(evaluate_part(model, splits, "test"))


def _check_crew(crew: Sequence[Any], failures: Any) -> None:
    """Raise what a worker failed of. Where one was killed the others may wait for ever for the lock that it held."""
    if not failures.empty():
        raise failures.get()
    if any(process.exitcode for process in crew):
        raise DistributedError(f"{GONE}: --resume (resume=True) goes on from it")


def _worker(task: Task, number: int, asking: Any, failures: Any, parent: int, threads: int) -> None:
    start_worker(parent, threads)
    try:
        work(task, number, Unwatched(), asking)
    except MoeZooError as error:
        failures.put(type(error)(*error.args) if not isinstance(error, Interrupted) else error)
    except Exception as error:
        failures.put(RuntimeError(f"{type(error).__name__}: {error}"))


def _found(space: Space, number: int, trial: Any) -> Found:
    figures = {key: value for key, value in trial.user_attrs["found"].items() if key != "score_name"}
    values = trial.user_attrs["values"]
    return Found(number, values, pruned=trial.state.name == "PRUNED", command=space.command(values), **figures)


def _read_best(folder: Path, design: Design) -> dict[str, float] | None:
    path = folder / f"{BEST}.json"
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    return found["test"] if found.get("design") == design.key else None
