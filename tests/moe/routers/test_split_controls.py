"""How many tokens a share is, and the routers that spend it without looking: by lots, and on fixed places."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn import functional as F

import moezoo
from moezoo.errors import InputError
from moezoo.moe import MoELayer, record_routing
from moezoo.moe.routers.fixed_cells import central_cells
from moezoo.moe.routers.split import num_chosen

DIM = 4


def layer_of(router, **args):
    return MoELayer(DIM, num_experts=2, router=router, router_args=args, hidden_dim=3, aux_weights={}).double()


def drawn(batch, tokens, seed=0):
    return torch.randn(batch, tokens, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def mask_of(layer, x):
    with record_routing(layer) as records:
        layer(x)
    return (records[0].routing.expert_index == 0).view(x.shape[:-1])


@given(num_tokens=st.integers(0, 10**8), whole=st.integers(1, 10**6), part=st.integers(0, 10**6))
@example(num_tokens=100, whole=100, part=7)
@example(num_tokens=34274317, whole=308, part=256)
@example(num_tokens=4, whole=10**6, part=1)
def test_a_share_is_the_next_whole_number_whatever_rounding_makes_of_the_product(num_tokens, whole, part):
    part = min(part, whole)
    assert num_chosen(part / whole, num_tokens) == -(-part * num_tokens // whole)


def test_the_least_share_above_none_is_a_token_and_the_sum_of_tenths_no_more_than_they_are():
    assert num_chosen(1e-300, 1) == 1
    assert num_chosen(0.1 + 0.2, 10) == 3


def test_random_fractions_are_drawn_anew_in_training_and_repeat_themselves_in_evaluation():
    layer, x = layer_of("random_fraction", fraction=0.25), drawn(6, 16)
    first, second = (mask_of(layer.train(), x) for _ in range(2))
    assert not torch.equal(first, second)
    masks = [mask_of(layer.eval(), x) for _ in range(2)]
    assert torch.equal(*masks)
    assert all(mask.sum(1).tolist() == [4] * 6 for mask in (first, masks[0]))
    assert torch.equal(mask_of(layer, x[2:3]), masks[0][2:3]), "whatever the batch"
    assert torch.equal(mask_of(layer, x * (1 + 1e-7)), masks[0]), "rounding draws no others"
    assert len({tuple(row) for row in masks[0].tolist()}) > 3, "other images, other places"
    assert not torch.equal(mask_of(layer_of("random_fraction", fraction=0.25, seed=1).eval(), x), masks[0])
    many = mask_of(layer, torch.randn(2000, 16, DIM, dtype=torch.float64)).double().mean(0)
    assert (many - 0.25).abs().max() < 0.06, "every place equally often"
    moezoo.set_budget(layer, 0.5)
    assert (mask_of(layer, x) & masks[0]).sum() == masks[0].sum(), "more are added, none taken away"


def test_fixed_cells_are_the_listed_ones_from_the_middle_outwards():
    assert central_cells((4, 4))[:4] == [5, 6, 9, 10]
    assert central_cells((3, 5))[:3] == [7, 6, 8]
    assert sorted(central_cells((3, 4))) == list(range(12))
    x = drawn(2, 16)
    layer = layer_of("fixed_cells", cells=central_cells((4, 4)), fraction=0.25).eval()
    assert [row.nonzero()[:, 0].tolist() for row in mask_of(layer, x)] == [[5, 6, 9, 10]] * 2
    moezoo.set_budget(layer, 1 / 16)
    assert mask_of(layer, x)[0].nonzero().tolist() == [[5]]
    listed = layer_of("fixed_cells", cells=[3, 1]).eval()
    assert mask_of(listed, x)[0].nonzero()[:, 0].tolist() == [1, 3]
    moezoo.set_budget(listed, 0.25)
    assert mask_of(listed, x)[0].nonzero()[:, 0].tolist() == [0, 1, 2, 3], "then the others in their order"
    with pytest.raises(InputError, match="position 3; a sample has 2"):
        listed(x[:, :2])


def test_lots_do_not_hang_on_rounding_where_all_samples_have_the_same_mean():
    layer, x = layer_of("random_fraction", fraction=0.25).eval(), F.layer_norm(drawn(64, 16), (DIM,))
    masks = mask_of(layer, x)
    assert len({tuple(row) for row in masks.tolist()}) > 32, "other images, other places"
    assert torch.equal(mask_of(layer, x + 1e-9 * drawn(64, 16, 1)), masks)


def test_the_first_tokens_may_be_drawn_before_all_others():
    layer, x = layer_of("random_fraction", fraction=0.25, first=3), drawn(6, 16)
    for _ in range(2):
        mask = mask_of(layer, x)
        assert mask[:, :3].all()
        assert (mask.sum(1) == 4).all()
        layer.eval()
    moezoo.set_budget(layer, 0.1)
    assert mask_of(layer, x).sum(0).tolist() == [6, 6] + [0] * 14
