import pytest

from moezoo.train.parallel.cuts import find_cut


@pytest.mark.parametrize(
    ("shape", "parts", "axis"),
    [
        ((768, 3072), 8, 0),
        ((768,), 1024, 0),  # a third of padding is less than another axis would save
        ((8, 3072, 768), 8, 0),
        ((8, 3072, 768), 64, 1),  # eight experts in 64 pieces would be eight times as much
        ((8, 3072), 64, 1),
        ((1, 197, 768), 4, 2),
        ((1, 197, 768), 1024, None),
        ((4, 7, 5), 16, 0),  # padded fourfold: the lesser evil
        ((1,), 64, None),
        ((), 2, None),
    ],
)
def test_a_parameter_is_cut_where_pieces_need_no_padding(shape, parts, axis):
    assert find_cut(shape, parts) == axis


def test_experts_that_are_spread_already_are_cut_through_rather_than_between():
    assert find_cut((2, 3072, 768), 2, spare=0.0) == 1
    assert find_cut((2, 5, 7), 2, spare=0.0) == 0
