"""Toy language models, and the whole of what they may say, for the tests of text generation."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor

PAD, BOS, EOS = 0, 1, 2


class Toy:
    """Random logits that depend on the image and on the whole text so far."""

    def __init__(self, seed: int, *, vocabulary: int = 6, images: int = 1, beams: int = 1, sharpness: float = 2.0):
        generator = torch.Generator().manual_seed(seed)
        self.table = sharpness * torch.randn(images, 97, vocabulary, generator=generator)
        self.beams = beams
        self.calls = 0

    def row(self, image: int, ids: list[int]) -> Tensor:
        state = 0
        for token in ids:
            state = (31 * state + token + 1) % 97
        return self.table[image, state]

    def __call__(self, ids: Tensor) -> Tensor:
        self.calls += 1
        return torch.stack([self.row(i // self.beams, row) for i, row in enumerate(ids.tolist())])

    def of(self, image: int) -> Toy:
        """The model of one image alone."""
        alone = Toy.__new__(Toy)
        alone.table, alone.beams, alone.calls = self.table[image : image + 1], self.beams, 0
        return alone


class Scripted:
    """The same logits for every row, by the number of tokens so far."""

    def __init__(self, *steps: list[float]):
        self.steps = [torch.tensor(step) for step in steps]

    def __call__(self, ids: Tensor) -> Tensor:
        return self.steps[min(ids.shape[1], len(self.steps)) - 1].expand(len(ids), -1)


def every_text(toy: Toy, image: int, options) -> list[tuple[float, list[int]]]:
    """All texts the options allow with their scores in float64, best first; no tensors of the search are shared."""
    texts: list[tuple[float, list[int]]] = []

    def walk(ids: list[int], total: float) -> None:
        ended = ids[-1] == EOS and len(ids) > 1
        if ended or len(ids) == options.max_length:
            texts.append((total / (len(ids) - 1) ** options.length_penalty, ids))
            return
        for token, log_prob in _allowed(toy.row(image, ids).tolist(), ids, options).items():
            walk([*ids, token], total + log_prob)

    walk([BOS], 0.0)
    return sorted(texts, reverse=True)


def _allowed(logits: list[float], ids: list[int], options) -> dict[int, float]:
    penalty = options.repetition_penalty
    logits = [(x / penalty if x > 0 else x * penalty) if t in ids else x for t, x in enumerate(logits)]
    total = math.log(sum(math.exp(x) for x in logits))
    ever = {t: x - total for t, x in enumerate(logits) if t not in (PAD, BOS)}
    long_enough = {t: x for t, x in ever.items() if t != EOS or len(ids) + 1 >= options.min_length}
    new = {t: x for t, x in long_enough.items() if not _comes_twice([*ids, t], options.no_repeat_ngram_size)}
    return new or long_enough or ever


def _comes_twice(ids: list[int], size: int) -> bool:
    """Whether the last ``size`` tokens have come before."""
    runs = [tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)]
    return bool(size) and len(runs) > 1 and runs[-1] in runs[:-1]


def repeated_pairs(ids: list[int]) -> bool:
    pairs = list(pairwise(ids))
    return len(pairs) != len(set(pairs))
