import pytest
from rank_pool import run_ranks
from spread_layers import check_all, check_layers


def test_spread_layers_equal_whole_ones_with_empty_ranks_and_refuse_what_cannot_be_spread():
    run_ranks(2, check_all)


@pytest.mark.slow
def test_four_ranks_with_one_expert_each():
    run_ranks(4, check_layers, (3, 0, 8, 1))
