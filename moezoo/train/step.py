"""One optimiser step: forward and backward of its micro-batches, one look at the numbers, then the update or none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import InputError, NonFiniteError
from moezoo.moe.aux import aux_loss
from moezoo.moe.aux_calls import aux_calls
from moezoo.moe.routers import AdaptiveRouter, step_routers
from moezoo.train.augment import Mixer
from moezoo.train.batches import Batch
from moezoo.train.health import RoutingMeter
from moezoo.train.parallel import Parallel
from moezoo.train.step_values import StepValues


@dataclass
class Stepper:
    """What a step needs. ``module`` is ``model`` as :meth:`Parallel.prepare` wrapped it."""

    model: nn.Module
    module: nn.Module
    optimizer: torch.optim.Optimizer
    parallel: Parallel
    meter: RoutingMeter
    autocast: Callable[[], AbstractContextManager]
    scaler: torch.amp.GradScaler | None = None
    mixer: Mixer | None = None
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    no_images: Tensor | None = None
    """(0, C, H, W): the batch of a process that has no image while others do."""
    keep_buffers: bool = False
    """Put running statistics back when a step is refused."""

    def __call__(self, batches: Sequence[Batch], *, measure: bool = False, stop: bool = False) -> StepValues:
        """Take one step over ``batches``, whose gradients are averaged.

        Args:
            batches: With other processes, as many as they give. Without any there is no step.
            measure: Count where the tokens go.
            stop: This process was asked to stop; the others learn of it.

        Returns:
            What it came to; with ``trouble`` if a loss or gradient was not finite, and nothing was updated.
        """
        if not batches:
            return StepValues(0, 0.0, 0.0, 0.0, stop, updated=False)
        buffers = [(b, b.clone()) for b in self.model.buffers()] if self.keep_buffers else []
        self.optimizer.zero_grad()
        if measure:
            self.meter.start()
        try:
            sums = self._gradients(batches)
        except NonFiniteError as error:  # raised by a part of the user's own
            if self.parallel.world > 1:
                raise  # the other processes are in the middle of their forward
            self._forget(buffers)
            return StepValues(0, math.nan, math.nan, math.nan, stop, False, trouble=str(error))
        values = self._read(sums, stop, measure)
        if values.updated:
            self._update()
        else:
            if self.scaler is not None:
                self.scaler.update()  # lowers its scale
            self._forget(buffers)
        return values

    def _gradients(self, batches: Sequence[Batch]) -> Tensor:
        """(3,): task loss summed over this process's images, their number, mean auxiliary loss."""
        device = self.parallel.device
        self._scale_attached(1 / len(batches))
        sums = torch.zeros(3, dtype=self._exact, device=device)
        for number, batch in enumerate(batches, start=1):
            images, targets = self._on_device(batch)
            count = torch.full((), float(len(images)), device=device)
            total = self.parallel.sum(count) if self.parallel.world > 1 else count
            with self.parallel.accumulate(self.module, last=number == len(batches)):
                with self.autocast(), self.meter.counting_if(len(images) > 0):
                    logits = self._logits(images)
                task = F.cross_entropy(
                    logits.to(torch.promote_types(logits.dtype, torch.float32)),
                    targets,
                    label_smoothing=0.0 if self.mixer else self.label_smoothing,
                    reduction="sum",
                )
                aux = aux_loss(self.model)
                # Processes average their gradients, so each one's sum counts by its share of all images.
                loss = (task * self.parallel.world / total.clamp(min=1) + aux) / len(batches)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            sums += torch.stack([task.detach(), count, aux.detach() / len(batches)])
        self.parallel.finish_backward(self.model)
        return sums

    def _logits(self, images: Tensor) -> Tensor:
        output = self.module(images)
        if not isinstance(output, Tensor) or output.dim() != 2:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise InputError(
                f"{type(self.model).__name__} must answer {len(images)} images with (images, classes) logits, got {got}"
            )
        return output

    @property
    def _exact(self) -> torch.dtype:
        return torch.float32 if self.parallel.device.type == "mps" else torch.float64

    def _on_device(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if batch.images is None or batch.labels is None:
            assert self.no_images is not None
            images, labels = self.no_images, torch.zeros(0, dtype=torch.int64)
        else:
            images, labels = batch.images, batch.labels
        images = images.to(self.parallel.device, non_blocking=True)
        labels = labels.to(self.parallel.device, non_blocking=True)
        return self.mixer(images, labels) if self.mixer else (images, labels)

    def _scale_attached(self, share: float) -> None:
        """Give attached auxiliary losses the factor that the loss gets; without waiting for the device."""
        scale: Any = share
        if self.scaler is not None:
            scaled = self.scaler.scale(torch.full((), share, device=self.parallel.device))
            scale = scaled.clone  # a function, which is asked in every forward
        for calls in aux_calls(self.model):
            if calls.attached:
                calls.scale = scale

    def _read(self, sums: Tensor, stop: bool, measure: bool) -> StepValues:
        """The one moment in which a step waits for the device."""
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        self.norm = self.parallel.grad_norm(self.model)
        counts = self.meter.counts() if measure else torch.zeros(0, dtype=torch.int64, device=sums.device)
        mine = torch.cat([sums, torch.full_like(sums[:1], float(stop)), counts.to(sums)])
        everyone = self.parallel.sum(mine) if self.parallel.world > 1 else mine
        task, images, aux, stops, *counted, norm = torch.cat([everyone, self.norm.to(everyone).view(1)]).tolist()
        loss, aux = task / max(images, 1), aux / self.parallel.world
        trouble = ""
        if not (math.isfinite(loss) and math.isfinite(aux)):
            trouble = f"the loss is {loss + aux} (task {loss}, auxiliary {aux})"
        elif not math.isfinite(norm) and not self._scaler_can_help():
            trouble = f"the gradient's norm is {norm}"
        return StepValues(
            images=int(images),
            loss=loss,
            aux_loss=aux,
            grad_norm=norm if math.isfinite(norm) else 0.0,
            stop=stops > 0,
            updated=math.isfinite(norm) and not trouble,
            routing=self.meter.loads(counted) if measure and math.isfinite(loss) else (),
            trouble=trouble,
        )

    def _scaler_can_help(self) -> bool:
        """Under fp16 an infinite gradient is the scaler's business, as long as it has a scale to lower."""
        return self.scaler is not None and self.scaler.get_scale() > 1.0

    def _update(self) -> None:
        if self.grad_clip is not None:
            self.parallel.clip(self.model, self.grad_clip, self.norm)
        if self.scaler is None:
            self.optimizer.step()
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        step_routers(self.model)

    def _forget(self, buffers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """As if the step had not been: no gradient, nothing counted by routers, statistics as before."""
        self.optimizer.zero_grad()
        self.meter.open = False
        for module in self.model.modules():
            if isinstance(module, AdaptiveRouter):
                module.tally.zero_()
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
