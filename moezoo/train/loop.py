"""The training loop, on accelerate: one process on a CPU, a GPU, or many under ``torchrun``."""

from __future__ import annotations

import copy
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from moezoo.data import Splits
from moezoo.errors import NonFiniteError
from moezoo.eval import classification_metrics, evaluate, predict
from moezoo.moe.aux import aux_loss
from moezoo.moe.routers import step_routers
from moezoo.train.config import TrainingConfig
from moezoo.train.device import make_accelerator
from moezoo.train.health import CollapseWatch
from moezoo.train.optim import build_optimizer, build_schedule
from moezoo.train.output import MetricsLog, probe_folder, write_json
from moezoo.train.progress import Observer, Silent
from moezoo.train.result import EpochMetrics, TrainingResult
from moezoo.train.seeding import seeded


def fit(
    model: nn.Module,
    splits: Splits,
    config: TrainingConfig,
    *,
    out: str | Path | None = None,
    observer: Observer | None = None,
) -> TrainingResult:
    """Train on ``splits.train``, choose the epoch on ``splits.val`` and report ``splits.test`` once.

    Cross-entropy plus :func:`moezoo.aux_loss`, AdamW with warm-up and cosine. On the CPU the same seed, model
    and data give the same weights bit for bit. The caller's random generators are left as they were.

    Args:
        model: (B, C, H, W) to (B, classes) logits; trained in place. It comes back on the device it was
            trained on, with the weights of the best epoch, in evaluation mode.
        splits: A prepared data set.
        config: How to train.
        out: Folder for ``metrics.jsonl`` (one line per epoch) and ``metrics.json``; ``None`` writes nothing.
        observer: Is told about steps and epochs, for example a :class:`~moezoo.train.progress.ProgressBar`.

    Raises:
        OutputError: ``out`` cannot be written; found before anything is trained.
        ConfigError: The device or precision asked for is not there.
        NonFiniteError: A loss or gradient became NaN or infinite, named by epoch and step. The optimiser has
            not used it.
    """
    folder = probe_folder(out) if out is not None else None
    observer = observer or Silent()
    with seeded(config.seed):
        run = _Run(model, splits, config)
        writes = folder is not None and run.accelerator.is_main_process
        log = MetricsLog(folder / "metrics.jsonl") if writes else None  # type: ignore[operator]
        history: list[EpochMetrics] = []
        best: EpochMetrics | None = None
        best_weights: dict[str, torch.Tensor] = {}
        watch = CollapseWatch()
        begin = time.perf_counter()
        observer.start(config.epochs, run.steps_per_epoch)
        try:
            for epoch in range(1, config.epochs + 1):
                metrics = run.epoch(epoch, observer)
                history.append(metrics)
                watch.see(metrics)
                if log is not None:
                    log.add(metrics.to_dict())
                # Validation sets are small and accuracies tie; the loss then decides.
                if best is None or (metrics.val_accuracy, -metrics.val_loss) > (
                    best.val_accuracy,
                    -best.val_loss,
                ):
                    best, best_weights = metrics, copy.deepcopy(model.state_dict())
                observer.epoch(metrics, best)
        finally:
            observer.stop()
            run.close()
        seconds = time.perf_counter() - begin
        assert best is not None
        model.load_state_dict(best_weights)
        model.eval()
        test = evaluate(model, splits.test, batch_size=2 * config.batch_size, label_names=splits.label_names)
    result = TrainingResult(tuple(history), best.epoch, test, seconds)
    if writes:
        write_json(folder / "metrics.json", result.to_dict())  # type: ignore[operator]
    return result


class _Run:
    """What stays the same from epoch to epoch."""

    def __init__(self, model: nn.Module, splits: Splits, config: TrainingConfig):
        self.model, self.splits, self.config = model, splits, config
        self.accelerator = make_accelerator(config)
        size = len(splits.train)  # type: ignore[arg-type]
        loader = DataLoader(
            splits.train,
            config.batch_size,
            shuffle=True,
            num_workers=config.num_workers,
            generator=torch.Generator().manual_seed(config.seed),
            # Batch normalisation has no statistics of a single image.
            drop_last=size > config.batch_size and size % config.batch_size == 1,
        )
        model.to(self.accelerator.device)
        # A single process needs no wrapper, and without one the user's model is not touched.
        self.wrapped = self.accelerator.prepare_model(model) if self.accelerator.num_processes > 1 else model
        optimizer = build_optimizer(model, config)
        self.loader, self.optimizer = self.accelerator.prepare(loader, optimizer)
        self.steps_per_epoch = len(self.loader)
        self.schedule = build_schedule(optimizer, config, self.steps_per_epoch)

    def epoch(self, epoch: int, observer: Observer) -> EpochMetrics:
        """Train one epoch and validate."""
        begin = time.perf_counter()
        self.model.train()
        seen, sums = 0, torch.zeros(3, dtype=torch.float64)
        for step, (images, labels) in enumerate(self.loader, start=1):
            place = f"epoch {epoch}, step {step} of {self.steps_per_epoch}"
            lr = float(self.schedule.get_last_lr()[0])
            values = self._step(images, labels, place)
            seen += len(labels)
            sums += len(labels) * torch.tensor(values, dtype=torch.float64)
            observer.step(values[0])
        loss, aux, norm = (sums / seen).tolist()
        with self.accelerator.autocast():
            logits, targets, routing = predict(self.model, self.splits.val, batch_size=2 * self.config.batch_size)
        val = classification_metrics(logits, targets)
        return EpochMetrics(epoch, lr, loss, aux, norm, val.loss, val.top1, time.perf_counter() - begin, routing)

    def _step(self, images: torch.Tensor, labels: torch.Tensor, place: str) -> tuple[float, float, float]:
        """One optimiser step; the task loss, the auxiliary loss and the norm of the gradient."""
        config, accelerator = self.config, self.accelerator
        self.optimizer.zero_grad()
        try:
            with accelerator.autocast():
                logits = self.wrapped(images)
        except NonFiniteError as error:  # a router met NaN
            raise NonFiniteError(f"{place}: {error}") from None
        task = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        aux = aux_loss(self.model)
        loss = task + aux
        if not torch.isfinite(loss):
            raise NonFiniteError(
                f"{place}: the loss is {loss.item()} (task {task.item()}, auxiliary {aux.item()}); the "
                f"weights are those of the step before. Try a lower lr (now {config.lr}), grad_clip, or "
                "mixed_precision='no'."
            )
        accelerator.backward(loss)
        accelerator.unscale_gradients()
        norm = nn.utils.get_total_norm(p.grad for p in self.model.parameters() if p.grad is not None)
        # Under fp16 an infinite gradient is the scaler's business: it skips the step and lowers its scale.
        if not torch.isfinite(norm) and config.mixed_precision != "fp16":
            raise NonFiniteError(
                f"{place}: the gradient's norm is {norm.item()}; the weights are those of the step before."
            )
        if config.grad_clip is not None and torch.isfinite(norm):
            nn.utils.clip_grads_with_norm_(self.model.parameters(), config.grad_clip, norm)
        self.optimizer.step()
        if not accelerator.optimizer_step_was_skipped:
            step_routers(self.model)
            self.schedule.step()
        return task.item(), aux.item(), norm.item() if torch.isfinite(norm) else 0.0

    def close(self) -> None:
        """Take accelerate's wrapper off the model again."""
        if self.wrapped is not self.model:
            self.accelerator.unwrap_model(self.wrapped, keep_fp32_wrapper=False)
        self.accelerator.free_memory()
