"""Whether the cells that are said to count do count: deletion and insertion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.eval.explanation.scoring import Scorer


@dataclass(frozen=True)
class Faithfulness:
    """Areas under the curves of Petsiuk, Das and Saenko 2018, "RISE: Randomized Input Sampling for Explanation".

    A curve is the probability of the class, or the similarity to the match, over the share of the cells that are
    erased (deletion) or shown (insertion), those first that are said to count most.
    """

    deletion: float
    """Low where the first cells did count."""
    insertion: float
    """High where they did."""
    random_deletion: float
    """The mean of random orders of the same cells."""
    random_insertion: float
    beaten: float
    """Share of the random orders that are worse by both measures."""
    shares: tuple[float, ...]
    """Of the cells, from 0 to 1."""
    deletion_curve: tuple[float, ...]
    insertion_curve: tuple[float, ...]
    random_deletion_curve: tuple[float, ...]
    random_insertion_curve: tuple[float, ...]

    @property
    def deletion_gain(self) -> float:
        """By how much deletion is lower than at random: above 0 is better than chance."""
        return self.random_deletion - self.deletion

    @property
    def insertion_gain(self) -> float:
        """By how much insertion is higher than at random."""
        return self.insertion - self.random_insertion

    @property
    def faithful(self) -> bool:
        """Whether both beat a random order."""
        return self.deletion_gain > 0 and self.insertion_gain > 0


def faithfulness(
    scorer: Scorer, saliency: Tensor, alive: Tensor, *, steps: int, random_orders: int, generator: torch.Generator
) -> list[Faithfulness]:
    """Of each of B images.

    Args:
        scorer: Of the images.
        saliency: (B, M, rows, columns).
        alive: (B, M) bool: which spectra are there.
        steps: Points of a curve after its first.
        random_orders: Orders of cells to compare with.
        generator: Of these.
    """
    found = []
    for case in range(len(saliency)):
        places = alive[case, :, None, None].expand_as(saliency[case]).flatten().nonzero()[:, 0]
        own = saliency[case].flatten()[places].argsort(descending=True, stable=True)
        orders = [own, *(torch.randperm(len(places), generator=generator) for _ in range(random_orders))]
        counts = [round(len(places) * step / steps) for step in range(steps + 1)]
        first = torch.stack(
            [_first(places[order], count, saliency[case].shape) for order in orders for count in counts]
        )
        # What is not there is neither erased nor shown.
        erased = torch.cat([first, ~first & alive[case, :, None, None]])
        rows = torch.full((len(erased),), case)
        degree = scorer.decision.degree(scorer("faithfulness", rows, erased)).view(2, len(orders), steps + 1)
        shares = torch.tensor(counts, dtype=torch.float64) / len(places)
        area = torch.trapezoid(degree, shares, dim=-1)
        worse = (area[0, 1:] > area[0, 0]) & (area[1, 1:] < area[1, 0])
        mean_area, mean_curve = area[:, 1:].mean(1), degree[:, 1:].mean(1)
        found.append(
            Faithfulness(
                deletion=float(area[0, 0]),
                insertion=float(area[1, 0]),
                random_deletion=float(mean_area[0]),
                random_insertion=float(mean_area[1]),
                beaten=float(worse.double().mean()),
                shares=tuple(shares.tolist()),
                deletion_curve=tuple(degree[0, 0].tolist()),
                insertion_curve=tuple(degree[1, 0].tolist()),
                random_deletion_curve=tuple(mean_curve[0].tolist()),
                random_insertion_curve=tuple(mean_curve[1].tolist()),
            )
        )
    return found


def _first(places: Tensor, count: int, shape: torch.Size) -> Tensor:
    chosen = torch.zeros(shape.numel(), dtype=torch.bool)
    chosen[places[:count]] = True
    return chosen.view(shape)
