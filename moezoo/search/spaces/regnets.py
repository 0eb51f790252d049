"""AnyNetX A to E and RegNetX/Y, in the paper's size and a small one for small images."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from moezoo.errors import ConfigError
from moezoo.search.choosing import Chooser
from moezoo.search.spaces.anynet import AnyNet
from moezoo.search.spaces.base import Relation, Values
from moezoo.search.spaces.modules import ModuleSpace
from moezoo.search.spaces.stages import QUANTUM, Stages, regnet_stages

BOTTLENECKS = (1, 2, 4)


@dataclass(frozen=True)
class Size:
    """What numbers may reach, and what images the networks are for."""

    stages: int = 4
    max_depth: int = 16
    """Blocks of a stage."""
    max_width: int = 1024
    max_group: int = 32
    max_blocks: int = 63
    """RegNet's d."""
    max_slope: float = 256.0
    """RegNet's w_a; w_0 reaches as far."""
    stem_width: int = 32
    stem_stride: int = 2
    image: tuple[int, int, int] = (3, 224, 224)
    dataset: str | None = None
    epochs: int = 10

    @property
    def groups(self) -> tuple[int, ...]:
        return tuple(2**power for power in range(self.max_group.bit_length()))


FULL = Size()
SMALL = Size(
    stages=3,
    max_depth=4,
    max_width=64,
    max_group=16,
    max_blocks=12,
    max_slope=24.0,
    stem_width=16,
    stem_stride=1,
    image=(1, 16, 16),
    dataset="digits",
    epochs=6,
)


def never_falls(field: str) -> Relation:
    """Whether every stage has at least as much of ``field`` as the one before."""
    return _NeverFalls(field)


@dataclass(frozen=True)
class _NeverFalls:
    field: str

    def __call__(self, values: Values) -> bool:
        numbers = values[self.field]
        return all(low <= high for low, high in itertools.pairwise(numbers))


class StageSpace(ModuleSpace):
    """A space of networks of stages."""

    se_ratio = 0.0

    def __init__(self, name: str, size: Size, help: str):
        self.name, self.size, self.help = name, size, help
        self.image, self.dataset, self.epochs = size.image, size.dataset, size.epochs
        self.training = {"batch_size": 64, "lr": 3e-3, "label_smoothing": 0.05}
        self.relations = {"widths_increase": never_falls("widths"), "depths_increase": never_falls("depths")}

    def fields(self) -> Sequence[str]:
        return ("widths", "depths", "bottlenecks", "groups")

    def build(self, values: Values, image: tuple[int, int, int], num_classes: int) -> nn.Module:
        return AnyNet(
            Stages.from_dict(values),
            se_ratio=self.se_ratio,
            stem_width=self.size.stem_width,
            stem_stride=self.size.stem_stride,
            in_chans=image[0],
            num_classes=num_classes,
            img_size=image[1:],
        )


class AnyNetX(StageSpace):
    """AnyNetX, freely or with what is shared or ordered.

    Args:
        name: As users say it.
        size: What numbers may reach.
        step: ``"a"`` leaves everything free; ``"b"`` shares the bottleneck ratio among the stages, ``"c"`` the groups'
            width too; ``"d"`` lets widths never fall, ``"e"`` depths neither.
    """

    def __init__(self, name: str, size: Size, step: str):
        told = {"a": "free", "b": "shared bottleneck", "c": "shared groups", "d": "widths rise", "e": "depths rise"}
        super().__init__(name, size, f"AnyNetX {step.upper()}: stages of RegNet blocks, {told[step]}")
        self.step = step

    def draw(self, choose: Chooser) -> dict[str, Any] | None:
        size, values = self.size, {name: [] for name in self.fields()}  # type: ignore[var-annotated]
        for stage in range(1, size.stages + 1):
            own_b = stage if self.step == "a" else 1
            own_g = stage if self.step in "ab" else 1
            b = choose.one_of(f"bottleneck_{own_b}", BOTTLENECKS) if own_b == stage else values["bottlenecks"][0]
            g = choose.one_of(f"group_{own_g}", size.groups) if own_g == stage else values["groups"][0]
            width = QUANTUM * choose.whole(f"width_{stage}", 1, size.max_width // QUANTUM, log=True)
            depth = choose.whole(f"depth_{stage}", 1, size.max_depth, log=True)
            for name, number in zip(self.fields(), (width, depth, b, g), strict=True):
                values[name].append(number)
        if any(w // b % g for w, b, g in zip(values["widths"], values["bottlenecks"], values["groups"], strict=True)):
            return None  # groups do not divide the width inside a block
        ordered = {"d": ("widths_increase",), "e": ("widths_increase", "depths_increase")}.get(self.step, ())
        return values if all(self.relations[name](values) for name in ordered) else None


class RegNetSpace(StageSpace):
    """RegNetX, or with squeeze-and-excitation RegNetY: six numbers give all stages.

    Args:
        name: As users say it.
        size: What numbers may reach.
        se_ratio: 0.25 for RegNetY.
    """

    PARAMETERS = ("w_0", "w_a", "w_m", "d", "b", "g")

    def __init__(self, name: str, size: Size, se_ratio: float = 0.0):
        kind = "RegNetY: as RegNetX, with squeeze-and-excitation" if se_ratio else "RegNetX: widths on a quantised line"
        super().__init__(name, size, kind)
        self.se_ratio = se_ratio

    def fields(self) -> Sequence[str]:
        return (*self.PARAMETERS, *super().fields())

    def draw(self, choose: Chooser) -> dict[str, Any] | None:
        size = self.size
        numbers: dict[str, Any] = {
            "w_0": QUANTUM * choose.whole("w_0", 1, int(size.max_slope) // QUANTUM, log=True),
            "w_a": round(choose.number("w_a", 8.0 * size.max_slope / 256, size.max_slope, log=True), 1),
            "w_m": round(choose.number("w_m", 1.5, 3.0), 3),
            "d": choose.whole("d", size.stages, size.max_blocks, log=True),
            "b": choose.one_of("b", BOTTLENECKS),
            "g": choose.one_of("g", size.groups),
        }
        try:
            stages = regnet_stages(**numbers)
        except ConfigError:  # a width inside a block rounded to nothing
            return None
        if len(stages.widths) != size.stages or stages.widths[-1] > size.max_width:
            return None
        return {**numbers, **stages.to_dict()}


def stage_spaces() -> list[StageSpace]:
    """All of them."""
    spaces: list[StageSpace] = []
    for size, end in ((FULL, ""), (SMALL, ".small")):
        spaces += [AnyNetX(f"anynetx_{step}{end}", size, step) for step in "abcde"]
        spaces += [RegNetSpace(f"regnetx{end}", size), RegNetSpace(f"regnety{end}", size, se_ratio=0.25)]
    return spaces
