"""Without balancing most experts die; each way of balancing keeps all of them at work, accuracy within a margin."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch_threads import on_one_thread

from moezoo.measure import flops

pytestmark = pytest.mark.filterwarnings("ignore:expert collapse")  # it is what is wanted here

SCRIPTS = Path(__file__).parents[2] / "benchmarks"
EPOCHS = 12
"""A router first leaves some experts behind, the loss then calls them back: after 8 epochs one or two of 16 still
had under 1 % of the tokens on three seeds of four, after 12 each has, on all four, at least a quarter of its share."""
BALANCED = ("load balancing loss, weight 0.1", "auxiliary-loss-free bias", "expert choice")
MARGIN = 0.03
"""Test accuracy that balancing may cost here; the unbalanced model alone varies more than this over seeds."""


@pytest.fixture(scope="module")
def collapse():
    sys.path.insert(0, str(SCRIPTS))
    try:
        return importlib.import_module("collapse")
    finally:
        sys.path.remove(str(SCRIPTS))


@pytest.fixture(scope="module")
def unbalanced(collapse):
    with on_one_thread():
        return collapse.train("no balancing", seed=0, epochs=EPOCHS)


def test_without_balancing_most_experts_die(unbalanced):
    assert unbalanced.dead >= unbalanced.load.num_experts / 2
    assert unbalanced.max_over_mean > 4
    assert unbalanced.load.load_entropy < 0.6


# That the bias evens out a collapsed load, and that expert choice fills its experts, tests of these routers say too.
@pytest.mark.parametrize("row", [BALANCED[0], *(pytest.param(row, marks=pytest.mark.slow) for row in BALANCED[1:])])
def test_balancing_keeps_every_expert_at_work_at_equal_accuracy(collapse, unbalanced, row):
    outcome = collapse.train(row, seed=0, epochs=EPOCHS)
    assert outcome.dead == 0, outcome.load.share
    assert outcome.max_over_mean < 2.5
    assert outcome.load.load_entropy > 0.93
    assert outcome.accuracy >= unbalanced.accuracy - MARGIN
    # Expert choice fills its experts whatever the router learns; its price are tokens that none of them takes.
    assert outcome.unserved > 0.1 if row == "expert choice" else outcome.unserved == 0


@pytest.mark.parametrize("row", ["no balancing", *BALANCED])
def test_the_dense_twin_executes_the_same_flops_but_for_the_router(collapse, row):
    images = torch.zeros(4, 1, 8, 8)
    executed = {
        name: flops(collapse.TinyViT(**collapse.ROWS[name]).eval(), images).executed for name in (row, "dense twin")
    }
    router = 2 * len(images) * collapse.TOKENS * collapse.DIM
    assert executed[row] - executed["dense twin"] == router * (collapse.EXPERTS - 1)


def test_rows_differ_in_the_router_and_the_experts_alone(collapse):
    """Same seed, same start: everything but the mixture, and between routers of one kind the mixture too."""
    states = {}
    for row, moe in collapse.ROWS.items():
        torch.manual_seed(3)
        states[row] = collapse.TinyViT(**moe).state_dict()
    first = states["no balancing"]
    for row, state in states.items():
        same = {name for name in first if name in state and torch.equal(first[name], state[name])}
        assert {name for name in first if not name.startswith("moe.")} <= same
        assert row == "dense twin" or set(first) <= same
