"""Scenes of coloured shapes: what there is, how one is drawn at random, and which combinations a part may show."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError

T = TypeVar("T")
Combination = tuple[str, ...]

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
}
KINDS = ("circle", "square", "triangle", "cross")
SIZES = {"small": 7, "large": 12}
"""Half the side of a shape in pixels."""
BACKGROUNDS = {"white": 245, "grey": 150, "black": 15}
PLACES = {
    "at the top left": (16, 16),
    "at the top": (32, 16),
    "at the top right": (48, 16),
    "on the left": (16, 32),
    "in the middle": (32, 32),
    "on the right": (48, 32),
    "at the bottom left": (16, 48),
    "at the bottom": (32, 48),
    "at the bottom right": (48, 48),
}
"""Where centres are with ``places``, in pixels, give or take ``SWAY``."""
SWAY = 3
MOST = 4
"""Shapes that surely find room."""


@dataclass(frozen=True)
class Shape:
    """One shape; its place in pixels of 64."""

    colour: str
    kind: str
    size: str
    x: int
    y: int
    place: str = ""
    """One of ``PLACES``; empty where it may be anywhere."""

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    background: str
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class SceneOptions:
    """What scenes there are."""

    __pydantic_config__ = STRICT

    num_shapes: tuple[int, int] = option((2, 3), f"fewest and most shapes in an image, 1 to {MOST}")
    places: bool = option(False, "shapes stand at nine places, which the first sentence names")
    left_to_right: bool = option(False, "shapes are named from left to right; otherwise in an order nobody can guess")
    held_out: float = option(0.0, "share of combinations that no training image shows, and every other image does")
    combination: Literal["colour-kind", "all"] = option(
        "colour-kind", "what a held-out combination is of: colour and kind, or size, colour, kind and background"
    )

    def __post_init__(self) -> None:
        low, high = self.num_shapes
        if not 1 <= low <= high <= MOST:
            raise ConfigError(
                f"num_shapes={self.num_shapes!r} is not allowed: it must be (fewest, most), from 1 to {MOST}."
            )
        if not 0 <= self.held_out <= 0.5:
            raise ConfigError(f"held_out={self.held_out!r} is not allowed: it must be from 0 to 0.5.")
        if self.held_out and round(self.held_out * len(combinations(self.combination))) < 2:
            least = 2 / len(combinations(self.combination))
            raise ConfigError(
                f"held_out={self.held_out!r} is not allowed: validation and test need one combination each, so it must "
                f"be 0, or at least {least:.3f}."
            )


@dataclass(frozen=True)
class Allowed:
    """Which scenes belong to a part: none with a combination of ``never``, each with one of ``needed``, if any are."""

    combination: str
    never: frozenset[Combination] = frozenset()
    needed: frozenset[Combination] = frozenset()

    def __call__(self, scene: Scene) -> bool:
        if not self.never and not self.needed:
            return True
        shown = {self.of(shape, scene.background) for shape in scene.shapes}
        return shown.isdisjoint(self.never) and not (self.needed and shown.isdisjoint(self.needed))

    def of(self, shape: Shape, background: str) -> Combination:
        pair = (shape.colour, shape.kind)
        return pair if self.combination == "colour-kind" else (shape.size, *pair, background)


def combinations(which: str) -> list[Combination]:
    """Every combination there is."""
    if which == "colour-kind":
        return list(itertools.product(COLOURS, KINDS))
    return list(itertools.product(SIZES, COLOURS, KINDS, BACKGROUNDS))


def allowed_in(options: SceneOptions, seed: int) -> dict[str, Allowed]:
    """By part: training shows none of the held-out combinations, validation and test show different halves of them.

    Every colour, kind, size and background loses about as many of its combinations as any other, so that training shows
    them all.
    """
    which, every = options.combination, combinations(options.combination)
    number, taken = round(options.held_out * len(every)), list[Combination]()
    if not number:
        return {part: Allowed(which) for part in ("train", "val", "test")}
    left = [every[i] for i in np.random.RandomState(seed).permutation(len(every))]
    uses: Counter[str] = Counter()
    while len(taken) < number:
        best = min(left, key=lambda words: sorted((uses[word] for word in words), reverse=True))
        left.remove(best)
        taken.append(best)
        uses.update(best)
    val, test = frozenset(taken[1::2]), frozenset(taken[::2])
    return {
        "train": Allowed(which, never=val | test),
        "val": Allowed(which, never=test, needed=val),
        "test": Allowed(which, never=val, needed=test),
    }


def draw_scene(rng: np.random.Generator, options: SceneOptions, allowed: Allowed) -> Scene:
    """The first scene of the random stream that is allowed."""
    while not allowed(scene := _any_scene(rng, options)):
        pass
    if options.left_to_right:
        return Scene(scene.background, tuple(sorted(scene.shapes, key=lambda shape: (shape.x, shape.y))))
    return scene


def _any_scene(rng: np.random.Generator, options: SceneOptions) -> Scene:
    """Shapes that do not touch, no two of the same colour and kind, so that each can be spoken of."""
    low, high = options.num_shapes
    number = int(rng.integers(low, high + 1))
    pairs = list(itertools.product(COLOURS, KINDS))
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:number]]
    while True:
        shapes = [_shape(rng, colour, kind, options.places) for colour, kind in chosen]
        if all(not _touch(a, b) for a, b in itertools.combinations(shapes, 2)):
            return Scene(_pick(rng, list(BACKGROUNDS)), tuple(shapes))


def _shape(rng: np.random.Generator, colour: str, kind: str, places: bool) -> Shape:
    size = _pick(rng, list(SIZES))
    if places:
        place = _pick(rng, list(PLACES))
        x, y = (int(centre + by) for centre, by in zip(PLACES[place], rng.integers(-SWAY, SWAY + 1, 2), strict=True))
        return Shape(colour, kind, size, x, y, place)
    half = SIZES[size]
    x, y = (int(v) for v in rng.integers(half + 1, SIDE - half - 1, size=2))
    return Shape(colour, kind, size, x, y)


def _pick(rng: np.random.Generator, words: list[T]) -> T:
    return words[int(rng.integers(len(words)))]


def _touch(a: Shape, b: Shape) -> bool:
    gap = SIZES[a.size] + SIZES[b.size] + 2
    return abs(a.x - b.x) < gap and abs(a.y - b.y) < gap
