"""Features in which it is known which input says who it is, and how hard an input is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import moezoo

DIM, IDENTITIES = 12, 10


def sightings(strengths: Sequence[float], count: int, generator: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """A (count, DIM) feature for each input, and the identities: prototype times strength, plus noise of size 1."""
    prototypes = torch.randn(len(strengths), IDENTITIES, DIM, generator=torch.Generator().manual_seed(7))
    who = torch.randint(IDENTITIES, (count,), generator=generator)
    features = [
        strength * prototypes[i, who] + torch.randn(count, DIM, generator=generator)
        for i, strength in enumerate(strengths)
    ]
    return features, who


def learn(
    fusion: nn.Module, call: Callable[[list[Tensor]], tuple[Tensor, Tensor]], strengths: Sequence[float], seed: int,
    steps: int = 120,
) -> Tensor:  # fmt: skip
    """The mean weights that ``fusion`` gives new sightings after it has learned to tell identities."""
    generator = torch.Generator().manual_seed(seed)
    classifier = nn.Linear(DIM, IDENTITIES)
    optimiser = torch.optim.Adam([*fusion.parameters(), *classifier.parameters()], 3e-3)
    for _ in range(steps):
        features, who = sightings(strengths, 64, generator)
        loss = nn.functional.cross_entropy(classifier(call(features)[0]), who) + moezoo.aux_loss(fusion)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fusion.eval()
    with torch.no_grad():
        return call(sightings(strengths, 400, generator)[0])[1].mean(0)


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's, without ties."""
    ranks = [torch.tensor(v).argsort().argsort().double() for v in (a, b)]
    first, second = (r - r.mean() for r in ranks)
    return float((first @ second) / (first.norm() * second.norm()))


def easy_and_hard(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, targets and which are hard: a flag says whether the target is a wavy function of the rest, or nothing."""
    x = torch.randn(count, 8, generator=generator)
    hard = torch.rand(count, generator=generator) < 0.5
    x[:, 0] = torch.where(hard, 2.0, -2.0)
    waves = torch.randn(7, 8, generator=torch.Generator().manual_seed(3))
    return x, torch.where(hard[:, None], 2 * torch.sin(x[:, 1:] @ waves), 0.0), hard


def learn_waves(model: nn.Module, call: Callable[[Tensor], Tensor], seed: int, steps: int = 200) -> None:
    """Train ``model`` on :func:`easy_and_hard`, prices included."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(8, 8)
    optimiser = torch.optim.Adam([*model.parameters(), *head.parameters()], 1e-2)
    for _ in range(steps):
        x, target, _ = easy_and_hard(128, generator)
        loss = (head(call(x)) - target).square().mean() + moezoo.aux_loss(model)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    model.eval()
