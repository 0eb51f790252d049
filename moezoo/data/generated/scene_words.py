"""True sentences about a scene of shapes."""

from __future__ import annotations

import itertools

import numpy as np

from moezoo.data.generated.scenes import Scene, Shape

MOST_SENTENCES = 5
APART = 8
"""Pixels by which one centre must be further left or higher before a sentence says so."""
NUMBERS = {1: "is one shape", 2: "are two shapes", 3: "are three shapes", 4: "are four shapes"}


def sentences(scene: Scene, rng: np.random.Generator, number: int = MOST_SENTENCES) -> tuple[str, ...]:
    """``number`` different sentences that are true of ``scene``; the first names all of it."""
    full = [_a(f"{s.size} {s.name}") + (s.place and f" {s.place}") for s in scene.shapes]
    others = _one(scene) if len(scene.shapes) == 1 else _several(scene)
    chosen = sorted(rng.permutation(len(others))[: number - 1])
    return (f"{_listed(full)} on {_a(scene.background)} background", *(others[i] for i in chosen))


def _one(scene: Scene) -> list[str]:
    shape = scene.shapes[0]
    found = [
        f"there {NUMBERS[1]}, {_a(shape.name)}",
        f"a picture of {_a(shape.name)}",
        f"the {shape.name} is {shape.size}",
        f"the {shape.name} is on {_a(scene.background)} background",
    ]
    return [*found, f"the {shape.name} is {shape.place}"] if shape.place else found


def _several(scene: Scene) -> list[str]:
    names = [s.name for s in scene.shapes]
    return [
        f"there {NUMBERS[len(names)]}, one of them is {_a(names[0])}",
        f"a picture of {' and '.join(_a(name) for name in names)}",
        *(f"the {s.name} is {s.size}" for s in scene.shapes),
        *(f"the {a.name} is {word} the {b.name}" for a, b in itertools.permutations(scene.shapes, 2)
          for word in _relations(a, b)),
    ]  # fmt: skip


def _relations(a: Shape, b: Shape) -> list[str]:
    """What may be said of ``a`` seen from ``b``, where it is plain to see."""
    found = [("left of", b.x - a.x), ("right of", a.x - b.x), ("above", b.y - a.y), ("below", a.y - b.y)]
    return [word for word, by in found if by >= APART]


def _listed(things: list[str]) -> str:
    return f"{', '.join(things[:-1])} and {things[-1]}" if len(things) > 1 else things[0]


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
