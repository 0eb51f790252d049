"""``compare_spaces``: designs of several spaces, each trained for a short while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int
from moezoo.search.constraints import Constraint
from moezoo.search.edf import EdfReport
from moezoo.search.progress import Unwatched, Watcher
from moezoo.search.sample import sample_space
from moezoo.search.spaces import Design, Space, find_space
from moezoo.search.store import claim, place_of
from moezoo.search.trial import Trained, read_trained, train_design
from moezoo.search.workers import EndWithParent, check_workers, each_in_a_worker
from moezoo.train.lock import own_run_folder
from moezoo.train.progress import Observer


def compare_spaces(
    spaces: Sequence[str | Space],
    out: str | Path,
    *,
    samples: int = 100,
    epochs: int | None = None,
    data: str | None = None,
    jobs: int = 1,
    seed: int = 0,
    constraints: Sequence[Constraint] = (),
    flops_window: tuple[float, float] | None = None,
    assignments: Sequence[str] = (),
    watcher: Watcher | None = None,
    overwrite: bool = False,
) -> EdfReport:
    """Draw designs of each space, train all for a short while, and write the table.

    The same call goes on where an earlier one was killed, also with more samples: what is finished is read. Errors are
    of the validation images.

    Args:
        spaces: Spaces, or their names.
        out: The folder.
        samples: Designs of each space.
        epochs: Of a training; by default each space's own.
        data: A data set, in place of the space's own.
        jobs: Processes that train.
        seed: Of the draws, and of every training.
        constraints: On all designs, see :func:`~moezoo.search.constraints.make_filter`.
        flops_window: (low, high) of the executed FLOPs of one image.
        assignments: ``key=value`` of every recipe.
        watcher: Is told what happens.
        overwrite: Drop what ``out`` holds.

    Raises:
        ConfigError: An argument is not allowed, or nothing fits; found before anything is trained.
        CheckpointError: ``out`` holds something else.
        RunLockedError: Another process works in ``out``.
        DistributedError: A worker was killed.
        Interrupted: A signal came.
    """
    check_int("samples", samples, low=1)
    check_workers("jobs", jobs)
    found = [find_space(space) for space in ([spaces] if isinstance(spaces, (str, Space)) else spaces)]
    names = [space.name for space in found]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"spaces={names} is not allowed: it must be one or more spaces, each once.")
    given = {space.name: settings(space, seed, epochs, data, assignments) for space in found}
    folder = Path(out)
    facts = {
        "kind": "edf",
        "spaces": names,
        "seed": seed,
        "epochs": epochs if epochs is not None else [space.epochs for space in found],
        "data": data,
        "assignments": list(assignments),
        "constraints": [each if isinstance(each, str) else repr(each) for each in constraints],
        "flops_window": flops_window and list(flops_window),
    }
    drawn = {
        space.name: sample_space(
            space, samples, seed, constraints=constraints, flops_window=flops_window, assignments=given[space.name]
        )
        for space in found
    }
    for space in found:
        space.check(drawn[space.name][0].values, given[space.name])
    claim(folder, facts, overwrite=overwrite)
    with own_run_folder(folder):
        shown = watcher if watcher is not None else Unwatched()
        return _train_all(found, drawn, given, folder, jobs, shown, {**facts, "samples": samples})


def settings(
    space: Space, seed: int, epochs: int | None, data: str | None, assignments: Sequence[str]
) -> tuple[str, ...]:
    """``key=value`` of every training of a search in ``space``; what the caller assigns comes last.

    Raises:
        ConfigError: ``epochs`` is not allowed.
    """
    epochs = check_int("epochs", epochs if epochs is not None else space.epochs, low=1)
    check_int("seed", seed, low=0, high=2**32 - 1)
    own = [f"training.epochs={epochs}", f"training.seed={seed}"]
    return (*own, *([f"data.name={data}"] if data is not None else []), *assignments)


def _train_all(
    spaces: Sequence[Space],
    drawn: Mapping[str, Sequence[Design]],
    given: Mapping[str, Sequence[str]],
    folder: Path,
    jobs: int,
    watcher: Watcher,
    about: Mapping[str, Any],
) -> EdfReport:
    work = [(space, design) for space in spaces for design in drawn[space.name]]
    results = {design.key: kept for _, design in work if (kept := read_trained(place_of(folder, design))) is not None}
    left = [(space, design) for space, design in work if design.key not in results]
    report = EdfReport(_in_order(drawn, results), about)
    watcher.begin(len(work), len(results))
    try:
        if jobs == 1:
            for space, design in left:
                observer = watcher.design(design.words())
                results[design.key] = _train(space, design, folder, given[space.name], observer)
                watcher.finished(design.words(), results[design.key].score)
        else:
            tasks = [(space, design, folder, given[space.name]) for space, design in left]
            for index, trained in each_in_a_worker(_train, tasks, jobs):
                results[left[index][1].key] = trained
                watcher.finished(left[index][1].words(), trained.score)
    finally:
        watcher.stop()
        report = EdfReport(_in_order(drawn, results), about)
        report.write(folder)
    return report


def _train(
    space: Space, design: Design, folder: Path, assignments: Sequence[str], observer: Observer | None = None
) -> Trained:
    return train_design(space, design, place_of(folder, design), assignments, observer or EndWithParent())


def _in_order(drawn: Mapping[str, Sequence[Design]], results: Mapping[str, Trained]) -> dict[str, tuple[Trained, ...]]:
    return {
        name: tuple(results[design.key] for design in designs if design.key in results)
        for name, designs in drawn.items()
    }
