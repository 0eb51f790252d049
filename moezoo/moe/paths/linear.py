"""``nn.Linear`` beside experts, for inference on a CPU as fast as theirs."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.moe.paths.packs import KeepsPacks, PackCache, Stacks
from moezoo.moe.paths.products import inferred, pays


class PackedLinear(KeepsPacks, nn.Linear):
    """``nn.Linear`` that keeps its weight reordered for inference on a CPU, where that pays."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features)
        self.packs = PackCache()

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2 and self.may_pack(x, self.weight) and pays(len(x), self.weight):
            packed = self.packs.get((self.weight, self.bias), x.dtype, _as_stacks)
            if packed is not None:
                return inferred(x, *packed[0])
        return super().forward(x)


def _as_stacks(weights: Stacks) -> Stacks:
    return tuple(w[None] for w in weights)
