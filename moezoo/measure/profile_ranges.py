"""Named ranges in a profiler's trace, by hooks that exist only while they are open."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn
from torch.profiler import record_function

from moezoo.moe.dispatch.plan import AssignmentPlan
from moezoo.moe.dispatch.slots import SlotPlan
from moezoo.moe.layer import MoELayer

PREFIX = "moezoo"
"""Ranges are called ``moezoo|kind|name``, with further names after it; a bar is in no module's name."""


def range_name(*parts: Any) -> str:
    return "|".join([PREFIX, *map(str, parts)])


def named_range(*parts: Any) -> record_function:
    """What is done inside shows in the trace under :func:`range_name`."""
    return record_function(range_name(*parts))


@contextmanager
def model_ranges(model: nn.Module) -> Iterator[None]:
    """A range ``part`` for every top-level part of ``model``, and ``moe`` for what each MoE layer does.

    ``router``; ``dispatch``, from the router's answer to the experts; ``experts``; ``combine``, from their answer on;
    ``shared`` experts; and, by their names, always-on experts beside the layer, as ``global_expert``.
    """
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, MoELayer):
                _moe_ranges(stack, name, module)
                for beside, expert in _beside(model, name):
                    _enclose(stack, expert, "moe", name, beside)
        for name, module in _parts(model):
            _enclose(stack, module, "part", name)
        yield


@contextmanager
def expert_ranges(model: nn.Module) -> Iterator[dict[tuple[str, int], int]]:
    """After each call of a layer's experts run every expert again alone, on its own rows, in a range ``expert``.

    Only so can the experts be told apart: together they may be one product.

    Yields:
        For each layer and expert the rows it had, over all calls.
    """
    rows: dict[tuple[str, int], int] = {}
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, MoELayer):
                hook = module.experts.register_forward_hook(_run_alone(name, rows))
                stack.callback(hook.remove)
        yield rows


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children; of a list, which is never called, its members under the list's name."""
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((name, member) for member in child.children())
        else:
            yield name, child


def _beside(model: nn.Module, layer: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules called ``…_expert`` that have their parent in common with an MoE layer."""
    for name, module in model.get_submodule(layer.rpartition(".")[0]).named_children():
        if name.endswith("_expert"):
            yield name, module


def _enclose(stack: ExitStack, module: nn.Module, *parts: Any) -> None:
    opened: list[record_function] = []
    _when_called(stack, module, lambda: _open(opened, *parts), lambda: _close(opened))


def _moe_ranges(stack: ExitStack, name: str, layer: MoELayer) -> None:
    between: list[record_function] = []
    _enclose(stack, layer.router, "moe", name, "router")
    _when_called(stack, layer.router, None, lambda: _open(between, "moe", name, "dispatch"))
    _enclose(stack, layer.experts, "moe", name, "experts")
    _when_called(stack, layer.experts, lambda: _close(between), lambda: _open(between, "moe", name, "combine"))
    if layer.shared is not None:
        _enclose(stack, layer.shared, "moe", name, "shared")
        _when_called(stack, layer.shared, lambda: _close(between), None)
    _when_called(stack, layer, None, lambda: _close(between))
    stack.callback(_close, between)  # after an error


def _when_called(
    stack: ExitStack, module: nn.Module, before: Callable[[], None] | None, after: Callable[[], None] | None
) -> None:
    """Around everything that other hooks of the module do, as adapters are; of two calls the second is outside."""
    if before is not None:
        hook = module.register_forward_pre_hook(lambda _module, _args: before(), prepend=True)
        stack.callback(hook.remove)
    if after is not None:
        # Always: checkpointing ends a recomputation by an exception as soon as it has what it needs.
        hook = module.register_forward_hook(lambda _module, _args, _output: after(), always_call=True)
        stack.callback(hook.remove)


def _open(opened: list[record_function], *parts: Any) -> None:
    opened.append(named_range(*parts))
    opened[-1].__enter__()


def _close(opened: list[record_function]) -> None:
    if opened:
        opened.pop().__exit__(None, None, None)


def _run_alone(name: str, rows: dict[tuple[str, int], int]) -> Callable[..., None]:
    def run(experts: Any, args: Any, _output: Any) -> None:
        x_ND, plan = args
        begin = 0
        for expert, size in enumerate(plan.counts.tolist()):
            end = begin + size
            rows[name, expert] = rows.get((name, expert), 0) + size
            if size:
                alone = _only(plan, begin, end, expert)
                with named_range("expert", name, expert):
                    experts.forward(x_ND[begin:end], alone)
            begin = end

    return run


def _only(plan: Any, begin: int, end: int, expert: int) -> AssignmentPlan:
    """The plan in which one expert computes its rows of ``plan`` and the others nothing."""
    index = plan.expert_index[begin:end]
    counts = plan.counts.new_zeros(plan.counts.shape)
    counts[expert] = end - begin
    if isinstance(plan, SlotPlan):  # rows are of no token; experts do not ask
        token, weight = index.new_zeros(index.shape), plan.slots.combine.new_ones(index.shape)
    else:
        token, weight = plan.token_index[begin:end], plan.weight[begin:end]
    return AssignmentPlan(
        expert_index=index, counts=counts, num_tokens=plan.num_tokens, path=plan.path, token_index=token, weight=weight
    )
