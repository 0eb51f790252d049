"""The training loop in many processes, and the command line under torchrun."""

import pytest
import torch
from rank_pool import run_ranks
from spread_fit import fit_half, fit_several, fit_toy, fit_until_told

SPREADS = [{"parallel": p, "expert_parallel": n} for p in ("ddp", "fsdp") for n in (1, 2)]


def same(got: dict, want: dict) -> None:
    assert got["tokens"] == want["tokens"]
    for mine, theirs in zip(got["curves"], want["curves"], strict=True):
        assert mine == pytest.approx(theirs, rel=0, abs=1e-9)
    for name, value in want["state"].items():
        assert torch.allclose(got["state"][name], value, rtol=0, atol=1e-9), name


def test_a_run_of_two_processes_is_the_run_of_one_with_the_batch_of_both():
    alone = run_ranks(1, fit_toy, {"batch_size": 16})[0]
    for rank in run_ranks(2, fit_several, SPREADS):
        for got in rank:
            same(got, alone)


@pytest.mark.slow
def test_a_run_that_is_stopped_goes_on_in_other_processes_to_the_same_end(tmp_path):
    alone = run_ranks(1, fit_toy, {"batch_size": 12, "epochs": 4})[0]
    for world, spread in ((4, SPREADS[3]), (3, SPREADS[2]), (2, SPREADS[1])):
        said = run_ranks(world, fit_until_told, {"batch_size": 12 // world, "epochs": 4, **spread}, tmp_path)
        assert all("--resume auto goes on from there" in text for text in said)
    for got in run_ranks(1, fit_toy, {"batch_size": 12, "epochs": 4}, tmp_path):
        same(got, alone)


@pytest.mark.slow
def test_in_bfloat16_the_run_is_nearly_the_same_and_routers_stay_in_float32():
    [(alone, _)] = run_ranks(1, fit_half, [{"batch_size": 16}])[0]
    for losses, dtypes in run_ranks(2, fit_half, SPREADS)[0]:
        assert losses == pytest.approx(alone, abs=0.02)
        assert dtypes == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("spread", SPREADS, ids=str)
def test_a_run_of_four_processes_is_the_run_of_one(spread):
    alone = run_ranks(1, fit_toy, {"batch_size": 16})[0]
    for got in run_ranks(4, fit_toy, {"batch_size": 4, **spread}):
        same(got, alone)
