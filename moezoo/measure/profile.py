"""Where the time and the memory of a model go: figures read off traces of ``torch.profiler``."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, schedule
from torch.profiler import profile as torch_profile

from moezoo.hub.files import check_writable, write_text
from moezoo.measure.calling import device_of, fit_input, training
from moezoo.measure.machine import machine
from moezoo.measure.profile_inputs import random_input
from moezoo.measure.profile_ranges import expert_ranges, model_ranges
from moezoo.measure.profile_result import ExpertSpan, Profile, StepProfile
from moezoo.measure.profile_steps import forward_step, training_step
from moezoo.measure.profile_summary import expert_spans, step_profile
from moezoo.measure.profile_trace import Trace, read_trace
from moezoo.moe.checks import check_int
from moezoo.moe.layer import MoELayer
from moezoo.moe.modes import evaluating

Progress = Callable[[int, int, str], None]


def profile(
    model: nn.Module,
    folder: str | Path,
    *,
    name: str = "",
    batch_size: int = 8,
    input: Sequence[Tensor] | None = None,
    steps: int = 5,
    warmup: int = 1,
    seed: int = 0,
    progress: Progress | None = None,
) -> Profile:
    """Trace ``steps`` of inference and of training, and every expert alone, and say where time and memory went.

    Training steps are whole: forward, a loss, backward, and AdamW with a learning rate of 0, so that the weights stay
    as they are. So do modes, buffers, gradients and random numbers.

    Args:
        model: Any model, before ``torch.compile``, on its device.
        folder: Gets ``inference.trace.json.gz``, ``training.trace.json.gz``, ``experts.trace.json.gz``, which Perfetto
            and Chrome show, and ``profile.json``.
        name: Of the model, for the record.
        batch_size: Random images in a step.
        input: Arguments of the model instead of random ones, images first.
        steps: That are traced.
        warmup: Steps before them; one more is run under the profiler and not kept.
        seed: Of the random input.
        progress: Called as ``progress(done, total, what)``.

    Raises:
        ConfigError: ``steps``, ``warmup`` or ``batch_size`` is out of range.
        OutputError: ``folder`` cannot be written to.
    """
    check_int("steps", steps, low=1)
    check_int("warmup", warmup, low=0)
    check_int("batch_size", batch_size, low=1)
    folder = check_writable(Path(folder))
    given = fit_input(model, tuple(input) if input is not None else random_input(model, batch_size, seed))
    device = device_of(model)
    modes = ["inference"]
    modes += ["training"] if any(p.requires_grad for p in model.parameters()) else []
    modes += ["experts"] if any(isinstance(module, MoELayer) for module in model.modules()) else []
    total = len(modes) * (warmup + 1 + steps)
    done = 0

    def tick(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(done, total, f"{name} {what}".strip())
        done += 1

    found: dict[str, StepProfile] = {}
    experts: tuple[ExpertSpan, ...] = ()
    for mode in modes:
        path = folder / f"{mode}.trace.json.gz"
        with _ready(model, mode) as rows:
            step = training_step(model, given) if mode == "training" else forward_step(model, given)
            trace = _traced(step, path, device, steps, warmup, functools.partial(tick, mode))
        if mode == "experts":
            experts = expert_spans(trace, {key: count / (warmup + 1 + steps) for key, count in rows.items()})
        else:
            found[mode] = step_profile(trace, mode, str(path), on_cpu=device.type == "cpu")
    if progress is not None:
        progress(total, total, "done")
    floating = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    result = Profile(
        name=name,
        device=str(device),
        dtype=str(floating).removeprefix("torch."),
        batch_size=len(given[0]),
        input=tuple(tuple(each.shape) for each in given),
        **vars(machine(device)),
        inference=found["inference"],
        training=found.get("training"),
        experts=experts,
    )
    write_text(folder / "profile.json", json.dumps(result.to_dict(), indent=2) + "\n")
    return result


@contextmanager
def _ready(model: nn.Module, mode: str) -> Iterator[dict[tuple[str, int], int]]:
    """The model in the right mode with the ranges of ``mode``; gives the rows of each expert where they are counted."""
    with ExitStack() as stack:
        if mode == "training":
            kept = [(parameter, parameter.grad) for parameter in model.parameters()]
            stack.callback(_put_back, kept)
            stack.enter_context(training(model))
        else:
            stack.enter_context(evaluating(model))
        if mode == "experts":
            yield stack.enter_context(expert_ranges(model))
        else:
            stack.enter_context(model_ranges(model))
            yield {}


def _traced(
    step: Callable[[], None],
    path: Path,
    device: torch.device,
    steps: int,
    warmup: int,
    tick: Callable[[], None],
) -> Trace:
    for _ in range(warmup):
        tick()
        step()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with torch_profile(
        activities=activities,
        schedule=schedule(wait=0, warmup=1, active=steps, repeat=1),
        on_trace_ready=lambda profiler: profiler.export_chrome_trace(str(path)),
        profile_memory=True,
    ) as profiler:
        for _ in range(1 + steps):
            tick()
            step()
            profiler.step()
    return read_trace(path)


def _put_back(grads: list[tuple[nn.Parameter, Tensor | None]]) -> None:
    for parameter, grad in grads:
        parameter.grad = grad
