import pytest
from losing_ranks import lose
from rank_pool import run_ranks

from moezoo.errors import ConfigError, DistributedError
from moezoo.train.parallel import lost_processes


def check(world: int, how: str, parallel: str, expert_parallel: int, patience: float) -> None:
    seen = run_ranks(world, lose, how, parallel, expert_parallel, patience, patience=patience, dies=world - 1)
    for rank, (text, seconds) in enumerate(seen[:-1]):
        assert seconds < patience + 20
        assert f"process {rank} lost another process" in text
        assert "outputs of the other processes" in text
        assert "--resume auto" in text


def test_a_killed_process_ends_the_others_with_what_to_look_at():
    check(2, "killed", "ddp", 2, 30)


def test_a_process_that_hangs_ends_the_others_after_the_timeout():
    check(2, "hangs", "fsdp", 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["killed", "hangs"])
@pytest.mark.parametrize(("parallel", "expert_parallel"), [("ddp", 1), ("ddp", 2), ("fsdp", 1), ("fsdp", 2)])
def test_the_others_end_whatever_the_strategy(how, parallel, expert_parallel):
    check(4, how, parallel, expert_parallel, 30 if how == "killed" else 5)


def test_errors_of_ones_own_stay_what_they_are():
    for error in (ConfigError("x"), DistributedError("NCCL"), RuntimeError("shapes do not fit"), ValueError("gloo")):
        with pytest.raises(type(error)) as raised, lost_processes():
            raise error
        assert raised.value is error
