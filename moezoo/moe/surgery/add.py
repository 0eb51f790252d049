"""Adding experts that start as copies of the most used ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_int, check_positive
from moezoo.moe.layer import MoELayer
from moezoo.moe.surgery.observe import Seen
from moezoo.moe.surgery.operate import groups_of, operate, ranked_in
from moezoo.moe.surgery.report import SurgeryReport
from moezoo.moe.surgery.rows import NewExperts, expert_stacks, router_rows

INITS = ("copy", "noise")


def add_experts(
    model: nn.Module,
    *,
    num_new: int,
    data: Any,
    init: str = "copy",
    noise_std: float | None = None,
    by: str = "assignments",
    layers: Sequence[str] | str | None = None,
) -> SurgeryReport:
    """Add experts to each layer, in place: copies of the most used ones, each with a copy of its row in the router.

    Old experts and rows stay as they are, and an exact copy has its original's logit, up to rounding. So with
    ``top_k=1`` a token goes to the expert it went to, or to its copy, and the output is preserved if the weight is the
    expert's own (sigmoid) or normalised to one; the probabilities of a softmax, if they are the weights, fall by what
    the copy takes. With ``top_k > 1`` the copy takes the place of a token's other choice, and where the number of
    experts is free (threshold, ReLU) it is used beside its original: the output is not preserved. The report says
    which it is (``report.preserved``). Rounding alone parts a copy from its original at first: ``init="noise"`` gives
    it tokens, and a task, of its own.

    Parameters become new objects: make the optimiser, and wrap for several devices, afterwards.

    Args:
        model: Any model with MoE layers, or an MoE layer.
        num_new: Experts more in each layer; the most used one is copied first, and after the last one again. With a
            router's groups an equal number is added at the end of each.
        data: See :func:`prune_experts`.
        init: ``copy``, or ``noise``: Gaussian noise on the copies' matrices and their rows in the router.
        noise_std: Of ``noise``, relative to the deviation of each matrix; ``None`` means 0.02.
        by: What use is; see :func:`prune_experts`.
        layers: Paths or fnmatch patterns of MoE layers; ``None`` means all.

    Raises:
        ConfigError: A number does not fit, or a layer's experts or router cannot be operated on. Nothing is changed.
        InputError: ``data`` is not that, or gives a layer no token. Nothing is changed.
    """
    check_int("num_new", num_new, low=1)
    check_choice("init", init, INITS)
    if noise_std is not None and init != "noise":
        raise ConfigError(f"noise_std={noise_std!r} is not allowed with init={init!r}: it belongs to init='noise'.")
    std = check_positive("noise_std", 0.02 if noise_std is None else noise_std) if init == "noise" else 0.0

    def plan(name: str, layer: MoELayer, seen: Seen, use_E: Tensor) -> NewExperts:
        made_from, new = [], []
        groups = groups_of(layer, "num_new", num_new)
        for group in groups:
            order = ranked_in(use_E, group)
            made_from += [[expert] for expert in group]
            for i in range(num_new // len(groups)):
                new.append(len(made_from))
                made_from.append([order[i % len(order)]])
        rows, stacks = router_rows(layer, made_from, use_E), expert_stacks(layer, made_from)
        if std:
            for key in ("w_in", "w_out"):
                _disturb(stacks[key], new, std)
            for key, axis in (layer.router.expert_axes or {}).items():
                if rows[key].dim() > 1:  # thresholds and biases stay
                    _disturb(rows[key].movedim(axis, 0), new, std)
        return NewExperts(made_from, rows, stacks)

    return operate(model, data, layers, by, plan)


def _disturb(rows: Tensor, which: list[int], std: float) -> None:
    """Noise on some experts' matrices or rows, in place, relative to the deviation of all experts'."""
    noise = torch.randn_like(rows[which], dtype=torch.float32)
    rows[which] += (noise * (std * rows.float().std(correction=0))).to(rows.dtype)
