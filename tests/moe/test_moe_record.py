"""record_routing: what it collects, that it cleans up, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from moezoo.errors import MoeZooError
from moezoo.moe import MoELayer, record_routing


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_records_name_call_and_detached_routing():
    model = nn.Sequential(MoELayer(4, num_experts=3, top_k=2), nn.Linear(4, 4), MoELayer(4, num_experts=2))
    x = torch.randn(2, 5, 4)
    with record_routing(model) as records:
        model(x)
        model(x)
    assert [(r.name, r.call) for r in records] == [("0", 0), ("2", 0), ("0", 1), ("2", 1)]
    routing = records[0].routing
    assert (routing.num_tokens, routing.num_experts, len(routing.expert_index)) == (10, 3, 20)
    torch.testing.assert_close(routing.logits, x.view(10, 4) @ model[0].router.weight.T)
    assert not any(r.routing.weight.requires_grad or r.routing.logits.requires_grad for r in records)


def test_recording_changes_no_output_and_leaves_no_hook():
    model = nn.Sequential(MoELayer(4, num_experts=3))
    x = torch.randn(5, 4)
    expected = model(x)
    before = hooks(model)
    with record_routing(model):
        assert hooks(model) > before
        assert torch.equal(model(x), expected)
    assert hooks(model) == before
    model(x)

    def failing():
        with record_routing(model):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert hooks(model) == before


def test_nothing_is_recorded_after_the_block():
    layer = MoELayer(4, num_experts=3)
    with record_routing(layer) as records:
        layer(torch.randn(5, 4))
    layer(torch.randn(5, 4))
    assert len(records) == 1


def test_a_call_by_keyword_is_recorded():
    layer = MoELayer(4, num_experts=3)
    with record_routing(layer) as records:
        layer(x=torch.randn(2, 3, 3, 4))
    assert [(r.name, r.grid) for r in records] == [("", (3, 3))]


def test_four_dimensional_inputs_are_grids_others_are_not():
    layer = MoELayer(4, num_experts=3)
    with record_routing(layer) as records:
        layer(torch.randn(2, 5, 7, 4))
        layer(torch.randn(2, 35, 4))
        layer(torch.randn(35, 4))
    assert [(r.grid, r.prefix_tokens) for r in records] == [((5, 7), 0), (None, 0), (None, 0)]


def test_a_parent_may_place_the_tokens():
    class Host(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(MoELayer(4, num_experts=3))

        def forward(self, x):
            return self.inner(x)

        def token_geometry(self, shape):
            return (2, (shape[1] - 1) // 2), 1

    model = Host()
    with record_routing(model) as records:
        model(torch.randn(2, 7, 4))
    assert [(r.name, r.grid, r.prefix_tokens) for r in records] == [("inner.0", (2, 3), 1)]


def test_dropped_assignments_are_in_the_record():
    layer = MoELayer(4, num_experts=2, capacity_factor=0.5)
    with record_routing(layer) as records:
        layer(torch.randn(8, 4))
    assert records[0].routing.counts().max() <= 2
    assert records[0].routing.dropped.sum() >= 4


def test_a_compiled_model_or_part_is_refused():
    inner = MoELayer(4, num_experts=3)
    in_place = nn.Sequential(MoELayer(4, num_experts=3))
    in_place.compile(backend="eager")
    for model in (
        torch.compile(inner, backend="eager"),
        nn.Sequential(torch.compile(inner, backend="eager")),
        in_place,
    ):
        with pytest.raises(MoeZooError, match=r"before torch\.compile"), record_routing(model):
            pass


def test_a_compiled_part_without_moe_layers_is_no_obstacle():
    model = nn.Sequential(torch.compile(nn.Linear(4, 4), backend="eager"), MoELayer(4, num_experts=3))
    with record_routing(model) as records:
        model[1](torch.randn(3, 4))
    assert len(records) == 1
