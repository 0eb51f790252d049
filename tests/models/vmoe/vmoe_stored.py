"""The reference's stored numbers, and the same of ours."""

from __future__ import annotations

import functools
import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from moezoo.models import soft_moe, vmoe
from moezoo.models.moe_vit.jax.arrays import to_arrays
from moezoo.models.moe_vit.jax.names import entries
from moezoo.moe import record_routing

STORED = Path(__file__).parents[2] / "fixtures" / "vmoe"


@functools.cache
def stored(name):
    """Arrays, parameters and configuration of a fixture."""
    with np.load(STORED / f"{name}.npz") as file:
        arrays = {key: file[key] for key in file.files}
    said = json.loads((STORED / f"{name}.json").read_text())
    params = {key.removeprefix("params/"): array for key, array in arrays.items() if key.startswith("params/")}
    return arrays, params, said["config"]


def model_of(name):
    _, params, config = stored(name)
    overrides = {"dispatch_dtype": None} if name.endswith("fp32dispatch") else {}
    return (soft_moe if name.startswith("soft") else vmoe).from_jax(params, config, **overrides)


def nchw(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


@contextmanager
def told_noise(arrays):
    """What is drawn for the routers, in the order of the blocks."""
    rest, original = list(arrays), torch.randn_like
    torch.randn_like = lambda like, **_: torch.from_numpy(rest.pop(0)).reshape(like.shape).to(like)
    try:
        yield
    finally:
        torch.randn_like = original
    assert not rest


def run(model, images):
    """Outputs of the blocks and of other parts, the routings of MoE blocks by index, and the logits."""
    parts, hooks = {}, []
    watched = {f"blocks.{i}": block for i, block in enumerate(model.blocks)}
    watched |= {name: getattr(model, name) for name in ("patch_embed", "norm", "pre_logits")}
    for name, module in watched.items():
        hooks.append(module.register_forward_hook(lambda _m, _a, out, name=name: parts.__setitem__(name, out.detach())))
    with record_routing(model) as records:
        logits = model(images)
    for hook in hooks:
        hook.remove()
    return parts, {int(record.name.split(".")[1]): record.routing for record in records}, logits


def far(ours, theirs):
    return float(np.abs(np.asarray(ours.detach(), dtype=np.float64) - theirs).max())


def gradients_of(model):
    named = dict(model.named_parameters())
    return {
        name: array
        for entry in entries(model.moezoo_config)
        for name, array in to_arrays(entry, named[entry.key].grad).items()
    }
