"""Optuna's part: a study in a journal file that several processes share, and values that its sampler suggests."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moezoo.errors import MissingPackageError, OutputError
from moezoo.hub.files import output_errors
from moezoo.train.seeding import mix

if TYPE_CHECKING:
    import optuna

JOURNAL = "journal.log"
STUDY = "search"
SAMPLERS = ("tpe", "random")
WARM = 1
"""Epochs of a design before it may be stopped."""


def load_optuna() -> Any:
    """The package.

    Raises:
        MissingPackageError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise MissingPackageError('a search needs the package optuna: pip install "moezoo[search]"') from None
    return optuna


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna's lines and notes of what is experimental are not shown; afterwards its log is as it was."""
    logging = load_optuna().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", load_optuna().exceptions.ExperimentalWarning)
            yield
    finally:
        logging.set_verbosity(before)


def open_study(folder: Path, *, sampler: str, seed: int, startup: int, pruning: bool, several: bool) -> optuna.Study:
    """The study in ``folder``, begun if there is none.

    Args:
        folder: Of the search.
        sampler: ``"tpe"``, which learns, or ``"random"``.
        seed: Of the sampler.
        startup: Trials at random before the sampler has learnt enough, and before any is stopped.
        pruning: Stop designs whose score is below the median of the others' at the same epoch.
        several: Other processes choose at the same time.

    Raises:
        OutputError: The journal is damaged.
    """
    optuna = load_optuna()
    chosen: Any
    if sampler == "random":
        chosen = optuna.samplers.RandomSampler(seed=seed)
    else:
        chosen = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, constant_liar=several)
    pruner: Any = optuna.pruners.NopPruner()
    if pruning:
        pruner = optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=WARM)
    path = folder / JOURNAL
    try:
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        return optuna.create_study(
            storage=storage,
            study_name=STUDY,
            direction="maximize",
            sampler=chosen,
            pruner=pruner,
            load_if_exists=True,
        )
    except (ValueError, KeyError) as error:
        raise OutputError(f"{str(path)!r} is damaged: {error}. Begin again (--overwrite).") from None


def mend(folder: Path) -> None:
    """Cut off a last line of the journal that a killed process, or a full disk, left without its end."""
    path = folder / JOURNAL
    if path.is_file():
        with output_errors(path), path.open("r+b") as file:
            *_, last = (b"", *file)
            if last and not last.endswith(b"\n"):
                file.truncate(path.stat().st_size - len(last))


def sampler_seed(seed: int, worker: int, trials: int) -> int:
    """Another one for each worker and each time a search goes on: nobody draws what was drawn before."""
    return mix(seed, worker, trials) & 0xFFFFFFFF


class Suggested:
    """Asks a trial for the values of a design."""

    def __init__(self, trial: optuna.Trial):
        self.trial = trial

    def one_of(self, name: str, options: Sequence[Any]) -> Any:
        # Places, not values: lists are no categories of Optuna's.
        if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in options):
            return options[self.trial.suggest_int(name, 0, len(options) - 1)]
        return options[self.trial.suggest_categorical(name, range(len(options)))]

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return self.trial.suggest_int(name, low, high, log=log)

    def number(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return self.trial.suggest_float(name, low, high, log=log)
