"""Balanced k-means, and hidden units dealt out by it."""

import pytest
import torch

from moezoo.moe.clustering import balanced_clusters
from moezoo.moe.upcycling import DenseWeights, ExpertInit, spread


def planted(number, size, dim, noise):
    """Vectors around far centres, shuffled, and which centre each belongs to."""
    centre_CF = 3.0 * torch.randn(number, dim)
    label_N = torch.arange(number).repeat_interleave(size)[torch.randperm(number * size)]
    return centre_CF[label_N] + noise * torch.randn(number * size, dim), label_N


def cost(x_NF, index_CM):
    return sum((x_NF[i] - x_NF[i].mean(0)).square().sum().item() for i in index_CM)


@pytest.mark.parametrize("number", [1, 2, 5, 16])
def test_planted_clusters_are_recovered(number):
    x, label = planted(number, 12, 8, 0.3)
    index = balanced_clusters(x, number)
    assert index.shape == (number, 12)
    assert torch.equal(index.flatten().sort().values, torch.arange(12 * number))
    assert all(len(set(label[row].tolist())) == 1 for row in index)
    assert all(torch.equal(row, row.sort().values) for row in index)


def test_clusters_of_unequal_natural_size_come_out_equal():
    x = torch.cat([torch.randn(30, 4), 50 + torch.randn(10, 4)])
    index = balanced_clusters(x, 4)
    assert index.shape == (4, 10)
    assert (index >= 30).all(1).sum() == 1  # the ten stay together


def test_no_exchange_of_two_vectors_would_be_closer():
    x = torch.randn(24, 3)
    index = balanced_clusters(x, 3)
    best = cost(x, index)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        mean_a, mean_b = x[index[a]].mean(0), x[index[b]].mean(0)
        for i in index[a]:
            for j in index[b]:
                gain = (x[i] - mean_a).square().sum() + (x[j] - mean_b).square().sum()
                gain -= (x[i] - mean_b).square().sum() + (x[j] - mean_a).square().sum()
                assert gain < 1e-5
    assert best < cost(x, torch.randperm(24).view(3, 8))


def test_it_goes_by_torchs_seed_and_bears_equal_vectors():
    x = torch.randn(40, 2)
    torch.manual_seed(3)
    first = balanced_clusters(x, 5)
    torch.manual_seed(3)
    assert torch.equal(balanced_clusters(x, 5), first)
    assert balanced_clusters(torch.ones(6, 2), 3).flatten().sort().values.tolist() == list(range(6))


def test_vectors_without_values_are_dealt_out_in_order_where_they_lie():
    index = balanced_clusters(torch.empty(6, 2, device="meta"), 3)
    assert (index.shape, index.dtype, index.device.type) == ((3, 2), torch.int64, "meta")
    with torch._subclasses.FakeTensorMode():
        assert balanced_clusters(torch.empty(6, 2), 3).shape == (3, 2)
    dense = DenseWeights(*(torch.empty(shape, device="meta") for shape in ((6, 2), (6,), (2, 6), (2,))))
    made = spread(dense, 3, ExpertInit("partition", partition="clustering"))
    assert {name: tuple(w.shape) for name, w in made.items()} == {
        "w_in": (3, 2, 2),
        "b_in": (3, 2),
        "w_out": (3, 2, 2),
        "b_out": (3, 2),
    }


def test_a_default_device_of_the_callers_own_changes_nothing():
    x, _ = planted(3, 4, 2, 0.1)
    torch.manual_seed(1)
    expected = balanced_clusters(x, 3)
    torch.manual_seed(1)
    with torch.device("meta"):
        index = balanced_clusters(x, 3)
    assert torch.equal(index, expected)


@pytest.mark.parametrize("gated", [False, True])
def test_units_that_read_alike_share_an_expert_and_each_is_in_one(gated):
    D, H, E = 8, 24, 4
    rows, label = planted(E, H // E, D, 0.2)
    w_in = torch.cat([rows, torch.randn(H, D)]) if gated else rows  # the values say nothing about who fires together
    dense = DenseWeights(w_in, torch.arange(len(w_in)) * 1.0, torch.randn(D, H), torch.randn(D))
    made = spread(dense, E, ExpertInit("partition", partition="clustering"))
    unit_EH = made["b_in"][:, : H // E].long()
    assert torch.equal(unit_EH.flatten().sort().values, torch.arange(H))
    assert all(len(set(label[units].tolist())) == 1 for units in unit_EH)
    for expert, units in enumerate(unit_EH):
        both = torch.cat([units, units + H]) if gated else units
        assert torch.equal(made["w_in"][expert], w_in[both])
        assert torch.equal(made["b_in"][expert], dense.b_in[both])
        assert torch.equal(made["w_out"][expert], dense.w_out[:, units] * E)
