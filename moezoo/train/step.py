"""One optimiser step: forward and backward of its micro-batches, one look at the numbers, then the update or none."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import NonFiniteError
from moezoo.moe.aux import aux_loss
from moezoo.moe.aux_calls import aux_calls
from moezoo.moe.routers import AdaptiveRouter, step_routers
from moezoo.train.batches import Batch
from moezoo.train.health import RoutingMeter
from moezoo.train.parallel import Parallel
from moezoo.train.step_values import StepValues
from moezoo.train.tasks.base import Content, Task, count_images, to_device


@dataclass
class Stepper:
    """What a step needs. ``module`` is ``model`` as :meth:`Parallel.prepare` wrapped it."""

    model: nn.Module
    module: nn.Module
    task: Task
    optimizer: torch.optim.Optimizer
    parallel: Parallel
    meter: RoutingMeter
    autocast: Callable[[], AbstractContextManager]
    scaler: torch.amp.GradScaler | None = None
    grad_clip: float | None = None
    nothing: Content = None
    """The batch of a process that has no image while others do."""
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
            content = self._on_device(batch)
            images = count_images(content)
            count = torch.full((), float(images), device=device)
            total = self.parallel.sum(count) if self.parallel.world > 1 else count
            with self.parallel.accumulate(self.module, last=number == len(batches)):
                with self.autocast(), self.meter.counting_if(images > 0):
                    output = self.task.forward(self.module, content)
                task = self.task.loss(output, content)
                aux = aux_loss(self.model)
                # Processes average their gradients, so each one's sum counts by its share of all images.
                loss = (task * self.parallel.world / total.clamp(min=1) + aux) / len(batches)
                (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            sums += torch.stack([task.detach(), count, aux.detach() / len(batches)])
        self.parallel.finish_backward(self.model)
        return sums

    @property
    def _exact(self) -> torch.dtype:
        return torch.float32 if self.parallel.device.type == "mps" else torch.float64

    def _on_device(self, batch: Batch) -> Content:
        content = self.nothing if batch.content is None else batch.content
        return self.task.prepare(to_device(content, self.parallel.device))

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
        routing = self.meter.loads(counted) if measure and math.isfinite(loss) else ()
        return StepValues(
            images=int(images),
            loss=loss,
            aux_loss=aux,
            grad_norm=norm if math.isfinite(norm) else 0.0,
            stop=stops > 0,
            updated=math.isfinite(norm) and not trouble,
            routing=routing,
            use=self.meter.use(routing),
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
