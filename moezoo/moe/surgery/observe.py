"""Running a model on given data: what goes into its MoE layers, what comes out, and which experts are used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from moezoo.errors import InputError
from moezoo.moe.layer import MoELayer
from moezoo.moe.modes import evaluating
from moezoo.moe.record import record_routing
from moezoo.moe.surgery.report import label
from moezoo.moe.types import Routing


@dataclass
class Seen:
    """All calls of one layer on the data."""

    args: list[tuple[tuple, dict[str, Any]]] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    routings: list[Routing] = field(default_factory=list)

    @property
    def sources(self) -> bool:
        """Whether its experts read sources of their own."""
        return any(kwargs.get("sources") is not None for _, kwargs in self.args)

    def inputs(self, dim: int) -> list[Tensor]:
        """(T, D) the tokens of each call."""
        return [(args[0] if args else kwargs["x"]).reshape(-1, dim) for args, kwargs in self.args]


def batches_of(data: Any) -> list[Any]:
    """``data`` as a list of batches: a tensor or mapping is one; of an (images, labels) pair the first is taken.

    Raises:
        InputError: There is none, or it is something else.
    """
    if isinstance(data, (Tensor, Mapping)) or _is_labelled(data):
        data = [data]
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise InputError(f"data must be a batch or an iterable of batches, got {type(data).__name__}")
    batches = [batch[0] if isinstance(batch, (tuple, list)) and batch else batch for batch in data]
    if not batches or not all(isinstance(batch, (Tensor, Mapping)) for batch in batches):
        kinds = sorted({type(batch).__name__ for batch in batches}) or ["nothing"]
        raise InputError(f"data must hold tensors, or mappings of keyword arguments, got {', '.join(kinds)}")
    return batches


def _is_labelled(data: Any) -> bool:
    """Whether it is one batch with its labels, (images, whole numbers for them), and not two batches."""
    if not (
        isinstance(data, (tuple, list)) and len(data) == 2 and all(isinstance(t, Tensor) and t.dim() for t in data)
    ):
        return False
    images, labels = data
    return images.is_floating_point() and not labels.is_floating_point() and len(images) == len(labels)


def observe(model: nn.Module, layers: Mapping[str, MoELayer], batches: list[Any]) -> tuple[dict[str, Seen], list]:
    """Run ``model`` in evaluation mode; what its layers saw, and its own outputs.

    Raises:
        InputError: A layer was not run.
        MoeZooError: The model is compiled, so that nothing can be seen.
    """
    seen = {name: Seen() for name in layers}

    def see(name: str) -> tuple[Any, Any]:
        # Copies, since what follows the layer may change its input or output in place.
        def enter(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            seen[name].args.append(tree_map_only(Tensor, Tensor.clone, (args, kwargs)))

        def leave(_module: nn.Module, _args: tuple, output: Tensor | tuple[Tensor, Tensor]) -> None:
            seen[name].outputs.append(mixed(output).clone())

        return enter, leave

    with ExitStack() as stack:
        for name, layer in layers.items():
            enter, leave = see(name)
            stack.callback(layer.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(layer.register_forward_hook(leave).remove)
        records = stack.enter_context(record_routing(model))
        outputs = run(model, batches)
    for record in records:
        if record.name in seen:
            seen[record.name].routings.append(record.routing)
    for name, each in seen.items():
        if not sum(routing.num_tokens for routing in each.routings):
            raise InputError(f"{label(name)} got no token from data, so its experts' use cannot be measured.")
    return seen, outputs


def mixed(output: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """What a layer gave, without the weights that it may have been asked for too."""
    return output if isinstance(output, Tensor) else output[0]


def run(model: nn.Module, batches: list[Any]) -> list[Tensor]:
    """Every floating tensor that ``model`` gives for the batches."""
    outputs = []
    with evaluating(model):
        for batch in batches:
            output = model(**batch) if isinstance(batch, Mapping) else model(batch)
            leaves = tree_leaves(dict(output) if isinstance(output, Mapping) else output)
            outputs += [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    return outputs


def use_of(seen: Seen, by: str) -> Tensor:
    """(E,) float64: assignments of each expert, or the sum of their weights; what was dropped does not count.

    Where every token has every expert, their number says nothing, and it is the weights.
    """
    total_E = torch.zeros(seen.routings[0].num_experts, dtype=torch.float64)
    if all(routing.everything for routing in seen.routings):
        by = "weight"
    for routing in seen.routings:
        amount_N = routing.weight.double() if by == "weight" else torch.ones_like(routing.weight, dtype=torch.float64)
        total_E.index_add_(0, routing.expert_index.cpu(), (amount_N * ~routing.dropped).cpu())
    return total_E


def relative_change(after: list[Tensor], before: list[Tensor]) -> float:
    """The norm of the difference over the norm of ``before``, of all tensors together.

    Those that have a number for each expert, and so another shape than before, cannot be compared and do not count.
    """
    pairs = [(a, b) for a, b in zip(after, before, strict=True) if a.shape == b.shape]
    difference = sum(float((a.double() - b.double()).square().sum()) for a, b in pairs) ** 0.5
    size = sum(float(b.double().square().sum()) for _, b in pairs) ** 0.5
    return difference / size if size else (float("inf") if difference else 0.0)
