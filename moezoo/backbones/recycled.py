"""Checkpoint recycling in a backbone: what its MLPs do on images, and experts made by it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.chains import Place
from moezoo.errors import ConfigError, InputError
from moezoo.moe.activations import get_activation
from moezoo.moe.experts import Experts
from moezoo.moe.modes import evaluating
from moezoo.moe.recycling import Activity, draw_units, sub_network
from moezoo.moe.upcycling import DenseWeights, ExpertInit

Images = Tensor | Iterable[Tensor]
"""(B, C, H, W), or batches of such."""


def recycled(
    weights: DenseWeights, experts: Experts, init: ExpertInit, activity: Activity | None
) -> dict[str, Tensor] | None:
    """The tensors of ``experts``, in an MoE layer's state dict, that are sub-networks of an MLP; ``None``: too wide."""
    members: Any = getattr(experts, "members", None)
    widths = [experts.hidden_dim] * experts.num_experts if members is None else [m.hidden_dim for m in members]
    if max(widths) > weights.w_out.shape[1]:
        return None
    units = draw_units(weights, widths, init.sampling or "importance", activity)
    parts = [sub_network(weights, unit_U) for unit_U in units]
    names = {"w_in": "fc1.weight", "b_in": "fc1.bias", "w_out": "fc2.weight", "b_out": "fc2.bias"}
    if members is None:
        return {f"experts.{name}": torch.stack([getattr(part, name) for part in parts]) for name in names}
    return {
        f"experts.members.{e}.{inside}": getattr(part, name)
        for e, part in enumerate(parts)
        for name, inside in names.items()
    }


def check_images(images: object, init: ExpertInit) -> None:
    """Refuse images that would change nothing.

    Raises:
        ConfigError: The experts are made without looking at any.
    """
    if images is None or (init.method == "recycle" and init.sampling in (None, "importance", "graph")):
        return
    how = f"sampling={init.sampling!r}" if init.method == "recycle" else f"init={init.method!r}"
    raise ConfigError(f"images is not allowed with {how}: only init='recycle' by importance or graph looks at some.")


def measure_activity(model: nn.Module, places: Iterable[Place], images: Images, *, graph: bool) -> dict[str, Activity]:
    """What the hidden units of the MLPs do, by the paths of the modules to replace; in evaluation mode.

    Args:
        model: With the MLPs at ``places``.
        graph: Whether to count which units are active together, which takes a product (H, T) x (T, H).

    Raises:
        InputError: There are no images, or the model has no weights to look at them with.
    """
    watches = [_Watch(model, place, graph) for place in places]
    with evaluating(model), ExitStack() as stack:
        for watch in watches:
            stack.callback(model.get_submodule(watch.place.module).register_forward_pre_hook(watch.see).remove)
        like = next(model.parameters())
        if like.is_meta:
            raise InputError("images show nothing to a model on the meta device, which has no weights.")
        for batch in _batches(images):
            keyword, batch = getattr(model, "main_input_name", None), batch.to(like.device, like.dtype)
            model(**{keyword: batch}) if keyword else model(batch)
    return {watch.place.module: watch.activity() for watch in watches}


def _batches(images: Images) -> Iterator[Tensor]:
    for batch in [images] if isinstance(images, Tensor) or not isinstance(images, Iterable) else images:
        if not isinstance(batch, Tensor) or batch.dim() != 4 or not batch.is_floating_point():
            got = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise InputError(f"images must be floating point (B, C, H, W), or batches of such, got {got}")
        if len(batch):
            yield batch


class _Watch:
    """The running sums of one MLP."""

    def __init__(self, model: nn.Module, place: Place, graph: bool):
        anchor = model.get_submodule(place.anchor)
        state: Mapping[str, Tensor] = {key: anchor.get_parameter(key).detach() for key in place.dense.keys}
        self.place, self.weights = place, place.dense.weights(state)
        self.before = anchor.get_submodule(place.dense.before) if place.dense.before else nn.Identity()
        H = place.dense.hidden_dim
        self.tokens, self.size = 0, torch.zeros(H, dtype=torch.float64, device="cpu")
        self.together = torch.zeros(H, H, device="cpu") if graph else None

    def see(self, _module: nn.Module, args: Any) -> None:
        dense = self.place.dense
        x = self.before(args[0])
        x_TD = (x.movedim(1, -1) if dense.channels_first else x).reshape(-1, dense.dim)
        h_TH = F.linear(x_TD, self.weights.w_in, self.weights.b_in)
        act = get_activation(dense.activation)
        if dense.expert == "glu":
            gate_TH, up_TH = h_TH.chunk(2, dim=-1)
            h_TH = act(gate_TH) * up_TH
        else:
            h_TH = act(h_TH)
        self.tokens += len(h_TH)
        self.size += h_TH.abs().double().sum(0).cpu()
        if self.together is not None:
            active_TH = (h_TH > 0).float()
            self.together += (active_TH.t() @ active_TH).cpu()

    def activity(self) -> Activity:
        if not self.tokens:
            raise InputError("images holds none: the activity of hidden units needs some.")
        if not self.size.isfinite().all():
            raise InputError(f"what the hidden units of {self.place.module!r} do on these images is not finite.")
        return Activity(self.size / self.tokens, None if self.together is None else self.together / self.tokens)
