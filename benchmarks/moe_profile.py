"""Where the time of our layer goes: operators by what they are there for, the router's apart."""

from __future__ import annotations

from collections import defaultdict

import torch
from moe_workloads import Problem
from torch import nn
from torch.autograd.profiler_util import EventList
from torch.profiler import ProfilerActivity, profile

from moezoo.moe import MoELayer

KINDS = {
    "products": ("mm", "linear_pointwise", "mkldnn_linear", "matmul"),
    "activation": ("gelu", "silu", "relu"),
    "gather and combine": ("index", "embedding_bag", "gather", "scatter"),
    "plan": ("sort", "bincount", "cumsum", "arange", "histc", "searchsorted"),
    "waiting and copies": ("copy_", "item", "_local_scalar_dense", "cat", "clone", "zero_", "fill_"),
}
"""By parts of an operator's name, the first that fits. An activation fused into a product counts as product."""
ROUTING, REST = "routing", "the rest"


def profile_table(layer: MoELayer, problem: Problem, *, train: bool, rounds: int) -> str:
    """Milliseconds per call of each piece as Markdown, and the ten operators that took most.

    The router is profiled alone, and what it took is left out of the other pieces. Training profiles forward and
    backward of both.
    """
    layer.train(train)
    whole = _profiled(layer, problem, train, rounds)
    router = _profiled(layer.router, problem, train, rounds)
    pieces, routing = _by_kind(whole, rounds), _by_kind(router, rounds)
    lines = {ROUTING: sum(routing.values())} | {kind: max(pieces[kind] - routing[kind], 0.0) for kind in (*KINDS, REST)}
    total = sum(lines.values())
    text = ["| piece | ms | share |", "|---|---:|---:|"]
    text += [f"| {kind} | {ms:.3f} | {ms / total:.0%} |" for kind, ms in lines.items()]
    text += ["", "| operator | calls | ms |", "|---|---:|---:|"]
    top = sorted(whole, key=_self_us, reverse=True)[:10]
    text += [f"| {event.key} | {event.count / rounds:.0f} | {_self_us(event) / rounds / 1e3:.3f} |" for event in top]
    return "\n".join(text)


def _profiled(module: nn.Module, problem: Problem, train: bool, rounds: int) -> EventList:
    x = problem.x.clone().requires_grad_(train)

    def call() -> None:
        with torch.set_grad_enabled(train):
            out = module(x)
            if train and isinstance(out, torch.Tensor):
                out.backward(problem.grad)
            elif train:
                out.weight.sum().backward()

    call()
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if x.is_cuda else [])
    with profile(activities=activities) as trace:
        for _ in range(rounds):
            call()
    return trace.key_averages()


def _by_kind(events: EventList, rounds: int) -> defaultdict[str, float]:
    """Milliseconds per call by kind of operator."""
    spent: defaultdict[str, float] = defaultdict(float)
    for event in events:
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), REST)
        spent[kind] += _self_us(event) / rounds / 1e3
    return spent


def _self_us(event) -> float:
    return event.self_device_time_total or event.self_cpu_time_total
