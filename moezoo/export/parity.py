"""Whether an exported file computes what the model does, on images that go where the traced ones did not.

A graph may have frozen what it was traced with: the batch size, or the experts that were reached. So it is run on
images that reach other experts, in other numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from moezoo.errors import ExportError
from moezoo.moe import MoELayer, record_routing

SCALES = (1.0, 3.0, 0.3)
TRIES = 9
COLOURS = (0.0, 1.0, -1.0, 10.0, -10.0)
NUDGE = 1e-5
"""Far above what rounding does, far below what an image is: a decision that it turns is a tie."""

Decisions = dict[tuple[str, int], Tensor]
"""By layer and call: (T, E) bool, which expert computes which token."""


@dataclass(frozen=True)
class Parity:
    """What the comparison found. A pair is an expert of a layer."""

    max_relative_error: float
    """Largest difference over the largest output, over all outputs and batches."""
    limit: float
    batch_sizes: tuple[int, ...]
    """Compared at."""
    pairs: int
    """In the model."""
    pairs_traced: int
    """Reached by the images that the graph was traced with."""
    pairs_new: int
    """Reached by the compared images and not by the traced ones."""
    experts_matter: bool
    """Whether the output depends on the MoE layers at all. A fresh MoE may be the identity, which hides its experts."""

    def __str__(self) -> str:
        if not self.pairs:
            where = "the model has no MoE layers"
        elif self.pairs_new:
            where = f"{self.pairs_new} of {self.pairs} experts were reached that tracing had not"
        elif self.pairs_traced == self.pairs:
            where = f"tracing reached all {self.pairs} experts already"
        else:
            where = f"no input was found that reaches more than tracing's {self.pairs_traced} of {self.pairs} experts"
        if self.pairs and not self.experts_matter:
            where += (
                "; but the MoE, the identity while it is fresh, does not change the output, which hides its experts"
            )
        sizes = ", ".join(map(str, self.batch_sizes))
        return f"relative error {self.max_relative_error:.1e} (limit {self.limit:.0e}) at batch {sizes}; {where}"


def compare(
    model: nn.Module,
    run: Callable[[Tensor], Sequence[Tensor]],
    traced: Tensor,
    batch_sizes: Sequence[int],
    limit: float,
) -> Parity:
    """Compare ``run`` with ``model``, which is in evaluation mode, without gradients.

    Args:
        model: The truth.
        run: The file as a function.
        traced: The images the graph was traced with.
        batch_sizes: Compare on so many images each.
        limit: Largest relative error allowed.

    Raises:
        ExportError: The error is above the limit, or the model's own output is not finite.
    """
    before = decisions(model, traced)
    images = other_images(model, traced, max(batch_sizes))
    after = decisions(model, images)
    error = _worst([_error(model, run, images[:size]) for size in batch_sizes])
    if not error <= limit:
        tie = "" if steady(model, images) else " Its routing hangs on rounding (near-ties), which may be all there is."
        raise ExportError(
            f"the exported file does not compute what the model does: relative error {error:.1e}, allowed "
            f"{limit:.0e}, at batch {', '.join(map(str, batch_sizes))}.{tie}"
        )
    reached_before = reached(before)
    return Parity(
        max_relative_error=error,
        limit=limit,
        batch_sizes=tuple(batch_sizes),
        pairs=sum(m.num_experts for m in model.modules() if isinstance(m, MoELayer)),
        pairs_traced=len(reached_before),
        pairs_new=len(reached(after) - reached_before),
        experts_matter=experts_matter(model, images),
    )


def plain_images(model: nn.Module, like: Tensor) -> Tensor:
    """A batch of one colour, of several the one that reaches the fewest experts, to leave the others to the check."""
    choices = [torch.full_like(like, colour) for colour in COLOURS]
    return min(choices, key=lambda images: len(reached(decisions(model, images))))


def other_images(model: nn.Module, traced: Tensor, batch_size: int) -> Tensor:
    """``batch_size`` random images that reach experts which ``traced`` does not, if any do.

    Images whose routing rounding could turn are passed over: two right programs may differ on them.
    """
    before, best, best_rank = reached(decisions(model, traced)), traced, (False, False, -1)
    for seed in range(TRIES):
        noise = torch.randn(batch_size, *traced.shape[1:], generator=torch.Generator().manual_seed(seed))
        images = (noise * SCALES[seed % len(SCALES)]).to(traced)
        new = len(reached(decisions(model, images)) - before)
        rank = (new > 0, steady(model, images), new)
        if rank > best_rank:
            best, best_rank = images, rank
        if best_rank[0] and best_rank[1]:
            break
    return best


def steady(model: nn.Module, images: Tensor) -> bool:
    """Whether no routing decision turns under a nudge of the images to either side."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(TRIES)).to(images)
    nudge = NUDGE * images.abs().mean() * noise
    here = decisions(model, images)
    return all(
        torch.equal(here[key], moved[key])
        for moved in (decisions(model, images + nudge), decisions(model, images - nudge))
        for key in here
    )


def decisions(model: nn.Module, images: Tensor) -> Decisions:
    """Which expert computes which token."""
    with record_routing(model) as records:
        model(images)
    made = {}
    for record in records:
        routing = record.routing
        kept = ~routing.dropped
        chosen_TE = torch.zeros(routing.num_tokens, routing.num_experts, dtype=torch.bool, device=kept.device)
        chosen_TE[routing.token_index[kept], routing.expert_index[kept]] = True
        made[record.name, record.call] = chosen_TE
    return made


def reached(made: Decisions) -> set[tuple[str, int]]:
    """(layer, expert) of every expert that computed a token."""
    return {(name, e) for (name, _), chosen_TE in made.items() for e in chosen_TE.any(0).nonzero().flatten().tolist()}


def experts_matter(model: nn.Module, images: Tensor) -> bool:
    """Whether the output changes when every MoE layer gives zeros."""
    expected = _tensors(model(images))
    layers = [module for module in model.modules() if isinstance(module, MoELayer)]
    handles = [layer.register_forward_hook(_nothing) for layer in layers]
    try:
        without = _tensors(model(images))
    finally:
        for handle in handles:
            handle.remove()
    return any(not torch.equal(a, b) for a, b in zip(expected, without, strict=True))


def _nothing(_layer: nn.Module, _args: tuple, y: Any) -> Any:
    """Zeros; of a layer that gives its weights too, zeros with them."""
    return (torch.zeros_like(y[0]), *y[1:]) if isinstance(y, tuple) else torch.zeros_like(y)


def _tensors(output: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def _error(model: nn.Module, run: Callable[[Tensor], Sequence[Tensor]], images: Tensor) -> float:
    expected, got = _tensors(model(images)), run(images)
    if not all(y.isfinite().all() for y in expected):
        raise ExportError("the model's own output holds NaN or infinity, so nothing can be compared with it.")
    if [y.shape for y in got] != [y.shape for y in expected]:
        raise ExportError(
            f"the exported file gives shapes {[tuple(y.shape) for y in got]} for a batch of {len(images)}, the model "
            f"{[tuple(y.shape) for y in expected]}."
        )
    tiny = torch.finfo(torch.float32).tiny
    pairs = [(a.to(b), b) for a, b in zip(got, expected, strict=True)]
    return _worst([float((a - b).abs().max() / b.abs().max().clamp_min(tiny)) for a, b in pairs])


def _worst(errors: list[float]) -> float:
    """The largest; NaN, which ``max`` would lose behind a number, counts as the largest of all."""
    return max(errors, key=lambda error: math.inf if math.isnan(error) else error)
