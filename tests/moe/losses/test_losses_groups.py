"""Losses of a routing with groups: the mean over the groups, each by itself, at a cost that does not grow with them."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from moezoo.moe import Routing
from moezoo.moe import losses as L

TOKENS, EXPERTS = 40, 5
EACH = {
    "load_balancing": {},
    "first choices": {"first_choice": True},
    "not by k": {"normalize_by_k": False},
    "importance": {},
    "load": {"noise_std": 0.3},
    "prob_sq": {},
    "kl_balance": {},
    "kl_counts": {},
    "global_entropy": {"threshold": 1.5},
    "load_variance": {"target": 0.4},
}
"""The losses of which every group has its own, with arguments."""
NAMES = {"first choices": "load_balancing", "not by k": "load_balancing"}


def routing_of(logits: torch.Tensor, varying: bool) -> Routing:
    if not varying:
        routing = Routing.from_logits(logits, 2, clean_logits_TE=logits * 0.9)
        return dataclasses.replace(routing, dropped=torch.arange(2 * TOKENS) % 3 == 0)
    return Routing.from_mask(logits.detach() > 0.3, logits.softmax(-1), logits)


@pytest.mark.parametrize("varying", [False, True], ids=["top-k", "varying k"])
@pytest.mark.parametrize("case", EACH)
def test_it_is_the_mean_of_what_each_group_has_alone(case, varying):
    loss, args = L.AUX_LOSSES[NAMES.get(case, case)], EACH[case]
    logits = torch.randn(TOKENS, EXPERTS, dtype=torch.float64, requires_grad=True)
    for size in (8, 12, 1, 100):  # 12 leaves a group of 4, 100 is more than there are
        routing = dataclasses.replace(routing_of(logits, varying), group_size=size)
        alone = torch.stack([loss(part, **args) for part in routing.groups()])
        assert len(alone) == -(-TOKENS // size)
        together = loss(routing, **args)
        torch.testing.assert_close(together, alone.mean())
        ours, theirs = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (together, alone.mean()))
        torch.testing.assert_close(ours, theirs)


class Counted(TorchDispatchMode):
    """How many operators ran inside."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", EACH)
def test_more_groups_are_no_more_operations(case):
    routing = routing_of(torch.randn(TOKENS, EXPERTS), False)
    calls = []
    for size in (20, 2):
        with Counted() as counted:
            L.AUX_LOSSES[NAMES.get(case, case)](dataclasses.replace(routing, group_size=size), **EACH[case])
        calls.append(counted.calls)
    assert calls[0] == calls[1] > 0
