"""The average of a round: plain tensors by images, experts by the tokens they saw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moezoo.errors import InputError, NonFiniteError
from moezoo.federated.message import Message
from moezoo.federated.split import Layout, State


def expert_weighted_average(updates: Sequence[Message], previous: Mapping[str, Tensor], layout: Layout) -> State:
    """The new global tensors.

    A plain tensor is averaged by the clients' images (McMahan et al. 2017, "Communication-Efficient Learning of Deep
    Networks from Decentralized Data"), an expert and its rows in the router by the tokens it computed at each client in
    this round: who did not use an expert has nothing to say of it, and one that nobody used keeps its value. Running
    variances are pooled, since the clients' means differ too. Of whole numbers a scalar is a counter, to which every
    client's steps are added, and anything larger a constant. All sums are in float64.

    Args:
        updates: Of the clients; their order does not matter but for rounding.
        previous: The global tensors that the clients began the round with.
        layout: Of :func:`~moezoo.federated.split_parameters`.

    Raises:
        InputError: There is no update, two are of one client, or one does not fit: named by client and tensor.
        NonFiniteError: One holds NaN or infinity: named by client and tensor.
    """
    if not updates:
        raise InputError("an average needs at least one client's update")
    for update in updates:
        check_update(update, previous, layout)
    numbers = [update.client for update in updates]
    if twice := [number for number in numbers if numbers.count(number) > 1]:
        raise InputError(f"client {twice[0]} sent two updates of one round: every client needs a number of its own")
    return {name: _averaged(name, updates, previous, layout) for name in previous}


def check_update(update: Message, previous: Mapping[str, Tensor], layout: Layout) -> None:
    """Refuse an update that cannot be averaged; see :func:`expert_weighted_average`."""
    who = f"the update of client {update.client} is refused"
    if update.images < 1:
        raise InputError(f"{who}: it was trained on {update.images} images")
    if strange := sorted(set(update.state) ^ set(previous)):
        other = "is missing" if strange[0] in previous else "is not asked for"
        raise InputError(f"{who}: {len(strange)} tensors too many or too few, the first, {strange[0]!r}, {other}")
    for name, before in previous.items():
        value = update.state[name]
        if value.shape != before.shape or value.dtype != before.dtype:
            raise InputError(
                f"{who}: {name!r} must be {before.dtype} {tuple(before.shape)}, got {value.dtype} {tuple(value.shape)}"
            )
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise NonFiniteError(f"{who}: {name!r} holds NaN or infinity")
    sizes = {layer: previous[name].shape[axis] for name, (layer, axis) in layout.rows.items() if name in previous}
    for layer in {*sizes, *(layer for layer, _ in layout.owned.values())}:
        counts = update.tokens.get(layer)
        if counts is None or min(counts, default=0) < 0 or len(counts) != sizes.get(layer, len(counts)):
            raise InputError(f"{who}: its tokens of {layer!r} must be one count per global expert, got {counts}")


def _averaged(name: str, updates: Sequence[Message], previous: Mapping[str, Tensor], layout: Layout) -> Tensor:
    before = previous[name]
    if not before.is_floating_point():
        return _whole_numbers(name, updates, before)
    values = torch.stack([update.state[name].double() for update in updates])
    weights = _weights(name, updates, before, layout)
    total = weights.sum(0)
    share = weights / total.clamp(min=1.0)
    mean = (share * values).sum(0)
    if (about := layout.variances.get(name)) is not None:
        means = torch.stack([update.state[about].double() for update in updates])
        mean = mean + (share * (means - (share * means).sum(0)).square()).sum(0)
    return torch.where(total > 0, mean.to(before.dtype), before)


def _weights(name: str, updates: Sequence[Message], before: Tensor, layout: Layout) -> Tensor:
    """(clients, …) float64, to be multiplied with the clients' tensors."""
    shape = [len(updates)] + [1] * before.dim()
    if name in layout.rows:
        layer, axis = layout.rows[name]
        shape[1 + axis] = before.shape[axis]
        numbers = [[float(n) for n in update.tokens[layer]] for update in updates]
    elif name in layout.owned:
        layer, expert = layout.owned[name]
        numbers = [[float(update.tokens[layer][expert])] for update in updates]
    else:
        numbers = [[float(update.images)] for update in updates]
    return torch.tensor(numbers, dtype=torch.float64).view(shape)


def _whole_numbers(name: str, updates: Sequence[Message], before: Tensor) -> Tensor:
    values = torch.stack([update.state[name] for update in updates])
    if before.dim() == 0 and before.dtype != torch.bool:
        return before + (values - before).sum(0).to(before.dtype)
    for update, value in zip(updates, values, strict=True):
        if not torch.equal(value, before):
            raise InputError(
                f"the update of client {update.client} is refused: {name!r}, whole numbers that cannot be averaged, "
                "has other values than the server's"
            )
    return before.clone()
