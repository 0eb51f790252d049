"""What surgery did to each layer, and what it changed."""

from __future__ import annotations

from dataclasses import dataclass

PRESERVED = 1e-5
"""Largest relative change that is rounding."""


def label(name: str) -> str:
    """A layer's path as messages show it; the layer that was given itself has none."""
    return repr(name) if name else "the layer"


@dataclass(frozen=True)
class LayerSurgery:
    """One MoE layer."""

    name: str
    """The layer's path in the model; empty for the layer itself."""
    before: int
    """Experts it had."""
    made_from: tuple[tuple[int, ...], ...]
    """For each expert it has now, the old experts it was made from."""
    use: tuple[float, ...]
    """Each old expert's share of the use on the data; they sum to one."""
    change: float
    """Of the layer's output on the inputs it had before: the norm of the difference over the norm of the output."""

    @property
    def after(self) -> int:
        """Experts it has now."""
        return len(self.made_from)

    @property
    def kept_use(self) -> float:
        """The share of the use that went to experts of which something is left."""
        return sum(self.use[expert] for expert in sorted({e for made in self.made_from for e in made}))


@dataclass(frozen=True)
class SurgeryReport:
    """What :func:`prune_experts`, :func:`merge_experts` or :func:`add_experts` did. ``print(report)`` shows a table."""

    layers: tuple[LayerSurgery, ...]
    change: float
    """Of the model's output, as of a layer's; all layers changed at once."""

    @property
    def preserved(self) -> bool:
        """Whether the model computes on this data what it did before, up to rounding."""
        return self.change <= PRESERVED

    def table(self) -> str:
        """A line per layer, then the model."""
        rows = [("layer", "experts", "use kept", "change of output")]
        for layer in self.layers:
            experts = f"{layer.before} -> {layer.after}"
            rows.append((layer.name or label(""), experts, f"{layer.kept_use:.1%}", f"{layer.change:.2e}"))
        before, after = (sum(getattr(layer, name) for layer in self.layers) for name in ("before", "after"))
        rows.append(("model", f"{before} -> {after}", "", f"{self.change:.2e}"))
        name, *widths = (max(map(len, column)) for column in zip(*rows, strict=True))
        lines = [
            f"{first:<{name}}  " + "  ".join(f"{c:>{w}}" for c, w in zip(cells, widths, strict=True))
            for first, *cells in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.table()
