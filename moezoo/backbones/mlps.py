"""Recognising a backbone's MLP by what it computes, and reading its weights in the order that experts keep them.

No class names: a module is an MLP if, with random weights in double precision, it gives what one of the formulas gives.
So the activation and the order of a gate and its value are found out, not believed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.upcycling import DenseWeights

TOLERANCE = 1e-6
"""Largest relative difference in double precision at which two formulas are the same."""


@dataclass(frozen=True)
class DenseMLP:
    """An MLP whose weights can be read. Module names are relative to the module that holds them all."""

    expert: str
    """``mlp`` or ``glu``."""
    activation: str
    dim: int
    hidden_dim: int
    inputs: tuple[str, ...]
    """The layers that make up the experts' first product, of a GLU the gate's first where it has a layer of its own."""
    value_first: bool
    """Of a GLU with one input layer: its first half is the value, the second the gate."""
    output: str
    """The layer of the second product."""
    before: str | None
    """A child that prepares the input (a norm) and stays as it is."""
    channels_first: bool
    """Whether channels lie on the second axis: the layers are 1x1 convolutions."""
    dropout: float
    """On the hidden units."""
    out_dropout: float
    """On the output."""
    keys: tuple[str, ...]
    """The keys of the weights in a state dict."""

    def weights(self, state: Mapping[str, Tensor], prefix: str = "") -> DenseWeights:
        """The weights as experts keep them; a bias that is not there is zero."""
        first = [self._layer(state, prefix, name) for name in self.inputs]
        w_in, b_in = (torch.cat(parts) for parts in zip(*first, strict=True))
        if self.value_first:
            w_in, b_in = (torch.cat(t.chunk(2)[::-1]) for t in (w_in, b_in))
        return DenseWeights(w_in, b_in, *self._layer(state, prefix, self.output))

    def _layer(self, state: Mapping[str, Tensor], prefix: str, name: str) -> tuple[Tensor, Tensor]:
        weight, key = state[f"{prefix}{name}.weight"].flatten(1), f"{name}.bias"
        return weight, state[prefix + key] if key in self.keys else weight.new_zeros(weight.shape[0])


@dataclass(frozen=True)
class Refusal:
    """Why a module that looks like an MLP cannot be upcycled."""

    reason: str


def is_pointwise(module: nn.Module) -> bool:
    """Whether a layer is one matrix on the channels of every position."""
    if type(module) is nn.Linear:
        return True
    return isinstance(module, nn.Conv2d) and module.groups == 1 and module.kernel_size == module.stride == (1, 1)


def widths(layer: nn.Module) -> tuple[int, int]:
    """Channels in and out of a pointwise layer."""
    return (layer.weight.shape[1], layer.weight.shape[0])  # type: ignore[index,return-value]


def activation_of(function: Any) -> str | None:
    """The name in :data:`ACTIVATIONS` of the function that ``function`` computes."""
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    try:
        wanted = function(x.clone())
    except Exception:  # a pooling, a norm: whatever it takes, it is no function of single numbers
        return None
    return next((name for name, act in ACTIVATIONS.items() if _same(act(x), wanted)), None)


def recognise(module: nn.Module, rank: int) -> DenseMLP | Refusal | None:
    """What MLP ``module`` is, if it is one; ``None`` when it does not even look like one.

    Args:
        module: Any module, also one without values; it is not changed, only a copy of it is run.
        rank: Dimensions of its input, the batch included.
    """
    with torch.no_grad(), torch.device("cpu"):  # also where the caller has set another default device
        return _recognise(module, rank)


def _recognise(module: nn.Module, rank: int) -> DenseMLP | Refusal | None:
    layers = {name: m for name, m in module.named_modules() if is_pointwise(m)}
    shapes = [widths(m) for m in layers.values()]
    if not _fits(shapes):
        return None
    dim, channels_first = shapes[0][0], isinstance(next(iter(layers.values())), nn.Conv2d)
    if any(isinstance(m, nn.Conv2d) != channels_first for m in layers.values()):
        return None
    probe = random_copy(module)
    shape = [2, *[3] * (rank - 1)]
    shape[1 if channels_first else -1] = dim
    calls: list[tuple[str, Tensor, Tensor]] = []
    for name, part in probe.named_modules():
        if name:
            part.register_forward_hook(lambda _m, args, out, name=name: calls.append((name, args[0], out)))
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    try:
        wanted = probe(x)
    except Exception:  # whatever it takes, it is not one tensor of tokens
        return None
    if not isinstance(wanted, Tensor) or wanted.shape != x.shape:
        return None
    before = _before(probe, layers, calls, x)
    others = _others(probe, {*layers, *([before] if before else [])})
    if others:
        return Refusal(f"it holds {', '.join(others)} besides its linear layers")
    if any(m._forward_hooks or m._forward_pre_hooks for m in module.modules()):
        return Refusal("it has forward hooks, which would be lost")
    dropouts = _dropouts(probe, calls, list(layers)[-1])
    if isinstance(dropouts, Refusal):
        return dropouts
    prepared = probe.get_submodule(before)(x) if before else x
    tokens = prepared.movedim(1, -1) if channels_first else prepared
    wanted = wanted.movedim(1, -1) if channels_first else wanted
    keys = tuple(f"{n}.{p}" for n, m in layers.items() for p in ("weight", "bias") if getattr(m, p) is not None)
    for expert, inputs, value_first, activation in _formulas(list(layers)):
        hidden = shapes[-1][0]
        mlp = DenseMLP(
            expert, activation, dim, hidden, inputs, value_first, list(layers)[-1], before, channels_first,
            *dropouts, keys,
        )  # fmt: skip
        if _same(_compute(mlp, mlp.weights(probe.state_dict()), tokens), wanted):
            return mlp
    return Refusal(f"its activation is none of {', '.join(ACTIVATIONS)}, or it computes more than an MLP")


def _fits(shapes: list[tuple[int, int]]) -> bool:
    """D → H → D, D → 2H and H → D, or two D → H and H → D, in this order."""
    if len(shapes) not in (2, 3):
        return False
    (dim, hidden), (inner, out) = shapes[0], shapes[-1]
    if len(shapes) == 3:
        return shapes[1] == shapes[0] and (inner, out) == (hidden, dim)
    return out == dim and inner in (hidden, hidden / 2)


def _formulas(layers: list[str]) -> list[tuple[str, tuple[str, ...], bool, str]]:
    """(expert, inputs, value_first, activation) of everything that these layers might be."""
    kinds: list[tuple[str, tuple[str, ...], bool]]
    if len(layers) == 3:
        first, second = layers[:2]
        kinds = [("glu", (first, second), False), ("glu", (second, first), False)]
    else:
        kinds = [("mlp", (layers[0],), False), ("glu", (layers[0],), False), ("glu", (layers[0],), True)]
    return [(*kind, act) for kind, act in itertools.product(kinds, ACTIVATIONS)]


def _compute(mlp: DenseMLP, w: DenseWeights, x: Tensor) -> Tensor | None:
    h = F.linear(x, w.w_in, w.b_in)
    act = ACTIVATIONS[mlp.activation]
    if mlp.expert == "glu":
        if h.shape[-1] != 2 * mlp.hidden_dim:
            return None
        gate, up = h.chunk(2, dim=-1)
        h = act(gate) * up
    elif h.shape[-1] != mlp.hidden_dim:
        return None
    else:
        h = act(h)
    return F.linear(h, w.w_out, w.b_out)


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and bool((a - b).abs().max() <= TOLERANCE * b.abs().max())


def random_copy(module: nn.Module) -> nn.Module:
    """A copy in double precision on the CPU, in evaluation mode, with weights that hide nothing (no zeros, no ones)."""
    generator = torch.Generator().manual_seed(0)
    memo: dict[int, Any] = {}
    for p in module.parameters():
        std = p[0].numel() ** -0.5 if p.dim() > 1 else 1.0
        memo[id(p)] = nn.Parameter(torch.randn(p.shape, dtype=torch.float64, generator=generator) * std)
    for b in module.buffers():
        memo[id(b)] = torch.ones(b.shape, dtype=torch.float64 if b.is_floating_point() else b.dtype)
    result = copy.deepcopy(module, memo)
    result.eval()  # not chained: LeViT's attention returns nothing here
    for part in result.modules():
        part._forward_hooks.clear()
        part._forward_pre_hooks.clear()
    return result


def _before(
    probe: nn.Module, layers: Mapping[str, nn.Module], calls: list[tuple[str, Tensor, Tensor]], x: Tensor
) -> str | None:
    """The child with weights that was given the module's own input, before the first layer was called."""
    name, given, out = calls[0]
    prepares = name not in layers and given is x and out.shape == x.shape and "." not in name
    return name if prepares and next(probe.get_submodule(name).parameters(), None) is not None else None


def _others(probe: nn.Module, known: set[str]) -> list[str]:
    """Kinds of the parts that are neither known, nor activations, dropouts or containers of those."""
    inside = tuple(f"{name}." for name in known)
    kinds = [
        type(m).__name__
        for name, m in probe.named_modules()
        if name not in known and not name.startswith(inside) and _owns_state(m)
    ]
    return list(dict.fromkeys(kinds))


def _owns_state(module: nn.Module) -> bool:
    own = itertools.chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return next(own, None) is not None


def _dropouts(probe: nn.Module, calls: list[tuple[str, Tensor, Tensor]], output: str) -> tuple[float, float] | Refusal:
    """Probabilities of the dropouts before and after the last layer."""
    last = next(i for i, (name, *_) in enumerate(calls) if name == output)
    rates: list[list[float]] = [[], []]
    for i, (name, *_) in enumerate(calls):
        part = probe.get_submodule(name)
        rate = getattr(part, "p", 0.0) if isinstance(part, nn.modules.dropout._DropoutNd) else 0.0
        if rate and type(part) is not nn.Dropout:
            return Refusal(f"it holds a {type(part).__name__}")
        if rate:
            rates[i > last].append(rate)
    if any(len(each) > 1 for each in rates):
        return Refusal("it drops the same units more than once")
    return (sum(rates[0]), sum(rates[1]))
