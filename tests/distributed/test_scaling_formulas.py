"""The formulas behind benchmarks/scaling.md against what small runs really move."""

import counted_traffic
import pytest
from rank_pool import run_ranks


def check(world: int, spreads: list[tuple[str, int]]) -> None:
    expected = counted_traffic.expect(spreads, world)
    ranks = run_ranks(world, counted_traffic.count, spreads)
    for i, spread in enumerate(spreads):
        # What a process sends back is what came to its experts: only all together do they send what is expected.
        exchanged = [rank[i].pop("all_to_all", 0) for rank in ranks]
        assert sum(exchanged) == world * expected[i].pop("all_to_all", 0), spread
        assert [rank[i] for rank in ranks] == [expected[i]] * world, spread


def test_parameters_are_those_of_the_model():
    from scaling_measured import SMALL, build_model

    model = build_model()
    assert sorted(tuple(p.shape) for p in model.parameters()) == sorted(p.shape for p in SMALL.parameters())


def test_the_document_holds_what_the_formulas_say():
    import scaling

    document = (counted_traffic.BENCHMARKS / "scaling.md").read_text(encoding="utf-8")
    tables = [scaling.memory_table(64, scaling.H100), scaling.steps_table(64, scaling.H100)]
    tables += [scaling.hardware_table(scaling.H100), scaling.models_table(), scaling.break_even_table(scaling.H100)]
    for table in tables:
        assert table in document, "python benchmarks/scaling.py writes it anew"


def test_bytes_of_two_processes_are_those_of_the_formulas():
    check(2, [("ddp", 1), ("ddp", 2), ("fsdp", 1), ("fsdp", 2)])


@pytest.mark.slow
def test_bytes_of_four_processes_are_those_of_the_formulas():
    check(4, [("ddp", 1), ("ddp", 2), ("ddp", 4), ("fsdp", 1), ("fsdp", 2), ("fsdp", 4)])
