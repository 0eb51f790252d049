from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rank_pool import run_ranks
from spread_training import MODULES, Case, train_all, train_alone, train_together

DOUBLE = Case()
SINGLE = Case(dtype=torch.float32, optimizer="sgd")


def check(world: int, cases: list[Case], tolerance: float) -> None:
    """All ranks end with the parameters, losses and gradient norms of one process with their images together."""
    together = run_ranks(world, train_all, cases)
    for i, case in enumerate(cases):
        alone = train_alone(case, world)
        begin = dict(case.model().named_parameters())
        assert max((alone["state"][name] - p).abs().max() for name, p in begin.items()) > 0.01, "nothing was learned"
        for rank in range(world):
            got = together[rank][i]
            assert got["state"].keys() == alone["state"].keys()
            for name, value in alone["state"].items():
                assert torch.allclose(got["state"][name], value, rtol=0, atol=tolerance), (case, name)
            assert got["losses"] == pytest.approx(alone["losses"], rel=0, abs=tolerance), case
            assert got["norms"] == pytest.approx(alone["norms"], rel=10 * tolerance), case


def test_two_processes_equal_one_however_the_model_is_spread():
    spreads = [("ddp", 1), ("ddp", 2), ("fsdp", 2)]
    check(2, [replace(DOUBLE, parallel=p, expert_parallel=n) for p, n in spreads], 1e-9)


def test_two_processes_equal_one_in_float32_where_a_process_has_only_idle_experts():
    single = replace(SINGLE, biased=True, micro=1)
    lists = [replace(single, layers=MODULES, parallel=parallel) for parallel in ("ddp", "fsdp")]
    check(2, [replace(single, expert_parallel=2), replace(single, parallel="fsdp"), *lists], 1e-5)


def test_four_processes_that_share_experts_in_pairs_equal_one():
    check(4, [replace(DOUBLE, parallel="fsdp", expert_parallel=2, biased=True, micro=1)], 1e-9)


def check_resumed(folder: Path, *parts: tuple[int, str, int]) -> None:
    """Each part goes on from the checkpoint of the one before; together they are one process's steps."""
    case = replace(DOUBLE, num_experts=6, steps=12, micro=1)
    alone = train_alone(case, 1)
    for i, (world, parallel, expert_parallel) in enumerate(parts, start=1):
        until = case.steps * i // len(parts)
        part = replace(case, parallel=parallel, expert_parallel=expert_parallel)
        together = run_ranks(world, train_together, part, folder, until)
    for got in together:
        for name, value in alone["state"].items():
            assert torch.allclose(got["state"][name], value, rtol=0, atol=1e-9), name


def test_a_run_goes_on_with_another_number_of_processes_as_if_it_were_one(tmp_path):
    check_resumed(tmp_path, (4, "fsdp", 2), (3, "ddp", 3), (1, "ddp", 1))


@pytest.mark.slow
def test_more_processes_than_before_go_on_too(tmp_path):
    check_resumed(tmp_path, (1, "ddp", 1), (3, "fsdp", 1), (4, "ddp", 2), (2, "fsdp", 2))


@pytest.mark.slow
def test_a_registered_model_equals_itself_in_one_process():
    digits = replace(DOUBLE, name="entity_moe/digits", shape=(1, 16, 16), micro=1, steps=6)
    check(2, [replace(digits, parallel=p, expert_parallel=n) for p in ("ddp", "fsdp") for n in (1, 2)], 1e-9)
    digits = replace(digits, recompute=True)
    check(2, [replace(digits, parallel=p, expert_parallel=2) for p in ("ddp", "fsdp")], 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("expert_parallel", [1, 2, 4])
def test_four_processes_equal_one_however_the_model_is_spread(parallel, expert_parallel):
    spread = {"parallel": parallel, "expert_parallel": expert_parallel}
    cases = [replace(DOUBLE, **spread), replace(DOUBLE, biased=True, clip=None, **spread)]
    check(4, cases, 1e-9)
    check(4, [replace(SINGLE, **spread), replace(SINGLE, biased=True, **spread)], 1e-5)
