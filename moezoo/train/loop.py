"""The training loop's door: :func:`fit`. What happens behind it is told in :mod:`moezoo.train.course`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import nn

from moezoo.train.config import TrainingConfig
from moezoo.train.course import Course
from moezoo.train.device import make_accelerator
from moezoo.train.folder import RunFolder, open_run
from moezoo.train.keeping import Keeper
from moezoo.train.modes import run_modes
from moezoo.train.parallel import lost_processes
from moezoo.train.parts import build_parts
from moezoo.train.progress import EpochHook, Observer, Silent
from moezoo.train.result import TrainingResult
from moezoo.train.seeding import seeded
from moezoo.train.signals import StopSignals
from moezoo.train.tasks import AnySplits


def fit(
    model: nn.Module,
    splits: AnySplits,
    config: TrainingConfig,
    *,
    out: str | Path | None = None,
    observer: Observer | None = None,
    resume: str | Path | None = None,
    overwrite: bool = False,
    on_epoch: EpochHook | None = None,
) -> TrainingResult:
    """Train on ``splits.train``, choose the epoch on ``splits.val`` and report ``splits.test`` once.

    What is learnt is up to the task (:mod:`moezoo.train.tasks`), which follows from the model and the data: classes by
    cross-entropy, with sentences about them beside the training images where the model takes text; images and captions
    that find one another; captions that are written; or identities to be found again by their features. To its loss
    comes :func:`moezoo.aux_loss`. AdamW with warm-up and cosine. On the CPU the same seed, model and data give the same
    weights bit for bit, also when the run was interrupted and resumed, and with any number of workers. The caller's
    random generators are left as they were.

    Where the data set has no validation part, as the published protocols of re-identification want it, the last epoch
    is kept, and the epochs' scores are of the test, for the log alone.

    Args:
        model: (B, C, H, W) to (B, classes) logits, or to a mapping that has them; one that takes text, which gets a
            ``tokenizer`` made of the training sentences if it has none; or one with ``modalities``, of (B, M, C, H, W)
            images, whose answer in training is (score, feature) pairs. Trained in place. It comes back on the device
            it was trained on, with the weights of the best epoch (their moving average, with ``ema_decay``), in
            evaluation mode.
        splits: A prepared data set, with labels, captions or identities.
        config: How to train.
        out: Folder for ``steps.jsonl`` (one line per step), ``metrics.jsonl`` (one line per epoch), ``metrics.json``
            and ``checkpoints/``; ``None`` writes nothing.
        observer: Is told about steps and epochs, for example a :class:`~moezoo.train.progress.ProgressBar`.
        resume: ``"auto"`` goes on from the newest whole checkpoint in ``out``, or begins where there is none; else a
            checkpoint's or a run's folder.
        overwrite: Drop the run that ``out`` holds.
        on_epoch: Called as ``on_epoch(model, splits, metrics)`` after every epoch, by the main process, with the
            weights that were validated, to draw pictures for example; the run is the same with and without. Not where
            the model is cut into pieces (``parallel="fsdp"``, ``expert_parallel``).

    Raises:
        OutputError: ``out`` cannot be written, or holds a run and neither ``resume`` nor ``overwrite`` was given;
            found before anything is trained. Or a checkpoint found the disk full; the one before is whole.
        RunLockedError: Another process trains in ``out``.
        CheckpointError: The checkpoint is damaged, or of another model, data set or seed.
        ConfigError: The device or precision asked for is not there, or the settings do not fit the model.
        NonFiniteError: A loss or gradient became NaN or infinite, named by epoch, step and images. The optimiser has
            not used it.
        DataError: More training files than ``max_bad_files`` cannot be read, or a reading process died.
        Interrupted: SIGTERM or SIGINT came; the step was finished and saved.
        DistributedError: Another process of the run is gone.
    """
    accelerator = make_accelerator(config)
    with lost_processes(), open_run(out, resume=resume, overwrite=overwrite) as folder:
        return train(model, splits, config, accelerator, folder=folder, observer=observer, on_epoch=on_epoch)


def train(
    model: nn.Module,
    splits: AnySplits,
    config: TrainingConfig,
    accelerator: Accelerator,
    *,
    folder: RunFolder | None = None,
    observer: Observer | None = None,
    on_epoch: EpochHook | None = None,
    data_options: Mapping[str, Any] | None = None,
    recipe: str | None = None,
) -> TrainingResult:
    """:func:`fit` in a folder that is open already.

    Args:
        data_options: What the data set was loaded with; a resumed run has to have the same.
        recipe: The content of ``config.yaml``, written once the run is sure to begin.
    """
    with seeded(config.seed), run_modes(model, config), StopSignals() as signals, ExitStack() as stack:
        parts = build_parts(model, splits, config, accelerator, stack)
        keeper = Keeper(parts, folder, data_options)
        stack.callback(keeper.close)
        shown = observer if observer is not None and parts.parallel.is_main else Silent()
        keeper.begin(recipe)
        return Course(parts, keeper, signals, shown, on_epoch).train()
