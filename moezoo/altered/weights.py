"""Which parameters of a model become int8, putting them in, and back."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from moezoo.altered.int8 import SCALE, VALUES, Int8Weight
from moezoo.altered.rounding import plain, to_int8
from moezoo.moe.experts import Experts, SharedExperts
from moezoo.moe.routers import Router
from moezoo.moe.routers.gate_layers import GateLayer

FEWEST = 1024
"""Numbers of the smallest weight that becomes int8; a smaller one has nothing to save and decides much."""
_POSITIONS = ("pos_embed", "position")
"""What a table of position embeddings (…, D) has in its name."""
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


def quantisable(model: nn.Module) -> dict[str, tuple[nn.Module, str, int]]:
    """By its name, each parameter that may become int8: its module, its name there, and its axes of channels.

    Linear layers, convolutions, embeddings, the packed projection of ``nn.MultiheadAttention``, every stack
    (E, out, in, …) of experts, and tables of position embeddings, by rows. Routers stay as they are: near-ties would
    flip experts. Only the hidden layers of MLP gates, which may be as large as experts, are stored as int8; they
    compute in float32 nevertheless.
    """
    found = {}
    gates = [(path, module) for path, module in model.named_modules() if isinstance(module, GateLayer)]
    for path, module in [*outside_routers(model), *gates]:
        for name, parameter in module._parameters.items():
            if parameter is None or not parameter.is_floating_point() or parameter.numel() < FEWEST:
                continue
            if axes := _channel_axes(module, name, parameter):
                found[f"{path}.{name}".removeprefix(".")] = (module, name, axes)
    return found


def _channel_axes(module: nn.Module, name: str, parameter: Tensor) -> int:
    if isinstance(module, (Experts, SharedExperts, GateLayer)):
        return 2 if parameter.dim() > 2 else 0
    if isinstance(module, _LAYERS):
        return int(name == "weight")
    if isinstance(module, nn.MultiheadAttention):
        return int(name == "in_proj_weight")
    # Not biases of an attention's scores, which are as many as heads to a row and decide much.
    table = any(word in name for word in _POSITIONS) and "bias" not in name
    return parameter.dim() - 1 if table else 0


def outside_routers(model: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules of ``model`` with their paths, parents first, without routers and what is in them."""
    if isinstance(model, Router):
        return
    yield path, model
    for name, child in model.named_children():
        yield from outside_routers(child, f"{path}.{name}".removeprefix("."))


def put_int8(places: dict[str, tuple[nn.Module, str, int]], mode: str) -> None:
    """Replace the parameters of :func:`quantisable` by int8 ones; a tied one stays tied."""
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for owner, name, axes in places.values():
        parameter = owner._parameters[name]
        assert parameter is not None
        if id(parameter) not in made:
            made[id(parameter)] = to_int8(parameter, axes)
    kept = [owner._parameters[name] for owner, name, _ in places.values()]  # so that no id is given twice
    for (owner, name, _), parameter in zip(places.values(), kept, strict=True):
        values, scale = made[id(parameter)]
        owner._parameters[name] = None
        owner.register_buffer(name + VALUES, values)
        owner.register_buffer(name + SCALE, scale)
        # Past nn.Module, which would not let it stand in a parameter's place.
        owner.__dict__[name] = Int8Weight(owner, name, mode)


def int8_weights(model: nn.Module) -> dict[str, Int8Weight]:
    """The int8 weights of a model by the names of the parameters they replace."""
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if isinstance(value, Int8Weight)
    }


def without_replaced(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """``state`` without int8 numbers in whose place a module put a parameter since, as where it resizes positions."""
    replaced = [name.removesuffix(VALUES) for name in state if name.endswith(VALUES)]
    old = {name + end for name in replaced if name in state for end in (VALUES, SCALE)}
    return {name: value for name, value in state.items() if name not in old}


def int8_numbers(model: nn.Module) -> int:
    """How many numbers are int8; a weight that two modules share counts once."""
    return sum({id(weight.values): weight.numel() for weight in int8_weights(model).values()}.values())


def take_out_int8(model: nn.Module) -> None:
    """Plain parameters again, of the numbers that the int8 ones stand for."""
    made: dict[int, nn.Parameter] = {}
    for weight in int8_weights(model).values():
        owner, name = weight.owner, weight.name
        values = owner._buffers.pop(name + VALUES)
        scale = owner._buffers.pop(name + SCALE)
        del owner.__dict__[name]
        assert values is not None
        assert scale is not None
        if id(values) not in made:
            made[id(values)] = nn.Parameter(plain(values, scale))
        owner._parameters[name] = made[id(values)]
