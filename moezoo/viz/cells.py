"""What a router with one score per cell thought of images, and which of their cells it sent to the big expert."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.record import RoutingRecord
from moezoo.moe.types import Routing

BIG = 0
"""The expert that cells of a high score go to."""
SURE = 1e-3
"""Scores nearer than this to 0 or 1 tell no threshold: their logits are rounded."""


@dataclass(frozen=True, eq=False)
class CellScores:
    """Scores and decisions of one layer over B images."""

    layer: str
    """The layer's path in the model; may be empty."""
    scores: Tensor
    """(B, rows, columns) float, each in [0, 1]."""
    chosen: Tensor
    """(B, rows, columns) bool: the big expert computed the cell."""
    threshold: Tensor
    """(B,) float: the score from which cells of an image are chosen; NaN where scores do not decide, or none is."""

    @property
    def scored(self) -> bool:
        """Whether there are scores, and not just decisions, as of cells chosen at random."""
        return not torch.equal(self.scores, self.chosen.float())

    @property
    def ratio(self) -> Tensor:
        """(B,) float: the share of each image's cells that were chosen."""
        return self.chosen.float().mean((1, 2))

    def __getitem__(self, images: slice | list[int]) -> CellScores:
        """The same of some of the images."""
        return CellScores(self.layer, self.scores[images], self.chosen[images], self.threshold[images])


def cell_scores(record: RoutingRecord) -> CellScores:
    """What ``record`` tells: ``probs[:, 0]`` is the score, ``expert_index == 0`` the decision.

    Tokens before the grid (class token, registers) are left out.

    Raises:
        InputError: The layer has not two experts, or its tokens do not lie on a grid.
    """
    routing = record.routing
    if routing.num_experts != 2:
        raise InputError(f"{record.name!r} has {routing.num_experts} experts; scores of cells are of a big and a small")
    if record.grid is None:
        raise InputError(f"the tokens of {record.name!r} do not lie on a grid, so they cannot be drawn over an image")
    rows, columns = record.grid
    big = (routing.expert_index == BIG) & ~routing.dropped
    chosen_T = torch.zeros(routing.num_tokens, dtype=torch.bool, device=big.device)
    chosen_T[routing.token_index[big]] = True

    def on_grid(of_tokens: Tensor) -> Tensor:
        per_image = of_tokens.cpu().view(-1, record.prefix_tokens + rows * columns)[:, record.prefix_tokens :]
        return per_image.reshape(-1, rows, columns)

    scores, chosen = on_grid(routing.probs[:, BIG].detach().float()), on_grid(chosen_T)
    return CellScores(record.name, scores, chosen, acting_threshold(scores, chosen, learned_threshold(routing)))


def given_scores(scores: Tensor, chosen: Tensor, grid: tuple[int, int], layer: str = "") -> CellScores:
    """The same of what a model returns: ``output.attention_scores`` and ``output.routing_mask``.

    Args:
        scores: (B, N) scores in [0, 1], a row of the grid after the other.
        chosen: (B, N) bool, or exactly 0 and 1.
        grid: Rows and columns.
        layer: A name.

    Raises:
        InputError: The sizes do not fit.
    """
    rows, columns = grid
    if scores.dim() != 2 or scores.shape != chosen.shape or scores.shape[1] != rows * columns:
        raise InputError(
            f"scores and chosen must be (B, {rows * columns}) for a grid of {rows} x {columns}, got "
            f"{tuple(scores.shape)} and {tuple(chosen.shape)}"
        )
    scores, chosen = (each.detach().cpu().view(-1, rows, columns) for each in (scores.float(), chosen.bool()))
    return CellScores(layer, scores, chosen, acting_threshold(scores, chosen))


def learned_threshold(routing: Routing) -> float | None:
    """What all tokens were compared with, if ``clean_logits[:, 0]`` is a score's logit minus the threshold's."""
    score = routing.probs[:, BIG].detach().double()
    told = (score > SURE) & (score < 1 - SURE)
    found = (score[told].logit() - routing.clean_logits[told, BIG].detach().double()).sigmoid()
    if not len(found) or not math.isclose(float(found.min()), float(found.max()), abs_tol=1e-3):
        return None
    return float(found.median())


def acting_threshold(scores: Tensor, chosen: Tensor, learned: float | None = None) -> Tensor:
    """(B,) the score from which cells were chosen: ``learned`` if it explains all choices, else each image's lowest.

    Args:
        scores: (B, rows, columns).
        chosen: (B, rows, columns) bool.
        learned: The threshold the router holds.
    """
    # A score that is as good as the threshold may have fallen to either side.
    if learned is not None and bool((((scores >= learned) == chosen) | ((scores - learned).abs() < 1e-3)).all()):
        return torch.full((len(scores),), learned)
    lowest = scores.where(chosen, torch.inf).flatten(1).amin(1)
    best_left = scores.where(~chosen, -torch.inf).flatten(1).amax(1)
    return lowest.where((lowest >= best_left) & lowest.isfinite(), torch.nan)
