import math
from types import SimpleNamespace

import pytest
import torch

from moezoo.eval import LoadCounter, routing_report
from moezoo.moe import Routing, RoutingRecord


def record(experts, num_experts=4, name="blocks.0", dropped=()):
    logits = torch.full((len(experts), num_experts), -5.0)
    logits[torch.arange(len(experts)), torch.tensor(experts)] = 5.0
    routing = Routing.from_logits(logits, 1, normalize=False)
    routing.dropped[list(dropped)] = True
    return RoutingRecord(name, 0, routing, None, 0)


def test_shares_entropy_and_dead_experts_by_hand():
    (load,) = routing_report([record([0, 0, 0, 1, 1, 3, 3, 3])])
    assert load.share == (3 / 8, 2 / 8, 0.0, 3 / 8)
    assert (load.max_share, load.min_share, load.dead_experts) == (3 / 8, 0.0, (2,))
    entropy = -(2 * 3 / 8 * math.log(3 / 8) + 1 / 4 * math.log(1 / 4)) / math.log(4)
    assert load.load_entropy == pytest.approx(entropy)
    assert (load.tokens, load.num_experts, load.drop_rate) == (8, 4, 0.0)


@pytest.mark.parametrize(("experts", "entropy"), [([0, 1, 2, 3], 1.0), ([2, 2, 2], 0.0)])
def test_entropy_is_one_when_even_and_zero_when_collapsed(experts, entropy):
    assert routing_report([record(experts)])[0].load_entropy == pytest.approx(entropy)


def test_batches_add_up_and_layers_stay_apart():
    counter = LoadCounter()
    counter.add([record([0, 0]), record([1], name="blocks.1")])
    counter.add([record([1, 1, 1, 2]), record([1], name="blocks.1")])
    first, second = counter.report()
    assert first.share == (2 / 6, 3 / 6, 1 / 6, 0.0)
    assert (first.layer, second.layer, second.share[1]) == ("blocks.0", "blocks.1", 1.0)


def test_dropped_assignments_count_in_the_load_and_in_the_drop_rate():
    (load,) = routing_report([record([0, 0, 0, 1], dropped=[1, 2])])
    assert load.share[0] == 3 / 4
    assert load.drop_rate == 2 / 4


def test_one_expert_is_even_and_no_token_is_finite():
    assert routing_report([record([0, 0], num_experts=1)])[0].load_entropy == 1.0
    empty = Routing.from_logits(torch.zeros(0, 4), 1)
    (load,) = routing_report([SimpleNamespace(name="x", routing=empty)])
    assert load.share == (0.0,) * 4
    assert load.load_entropy == 0.0
