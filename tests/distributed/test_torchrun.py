"""The command line under torchrun, as users start it."""

import json
import os
import subprocess
import sys
import time

import psutil
import pytest

SMALL = {"epochs": 1, "warmup_epochs": 0, "batch_size": 128, "save_every": 2, "dist_timeout": 40}


def start(folder, processes, name="entity_moe/digits", *flags, **settings):
    """``torchrun -m moezoo train`` in the background, its outputs in ``folder``."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "moezoo"]
    values = [f"training.{key}={value}" for key, value in {**SMALL, **settings}.items()]
    command = [sys.executable, *torchrun, "train", name, "--out", str(folder / "run"), *flags]
    with (folder / "output").open("w") as output:
        return subprocess.Popen(
            [*command, *(word for value in values for word in ("--set", value))],
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )


def steps(folder):
    path = folder / "run" / "steps.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_process_ends_the_whole_run_with_what_to_do(tmp_path):
    run = start(tmp_path, 2, epochs=50, expert_parallel=2)
    try:
        wait_for(lambda: len(steps(tmp_path)) > 2 or run.poll() is not None)
        ranks = psutil.Process(run.pid).children(recursive=True)
        victim = next(p for p in ranks if p.environ().get("RANK") == "1")
        begin = time.monotonic()
        victim.kill()
        assert run.wait(60) != 0
        assert time.monotonic() - begin < 60
    finally:
        run.kill()
    assert not [p for p in ranks if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    output = (tmp_path / "output").read_text()
    assert "process 0 lost another process of the run" in output
    assert "--resume auto goes on from the last checkpoint" in output
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_run_of_two_is_stopped_and_ended_by_one(tmp_path, parallel):
    run = start(tmp_path, 2, parallel=parallel, expert_parallel=2, epochs=2)
    try:
        wait_for(lambda: len(steps(tmp_path)) > 2 or run.poll() is not None)
        run.terminate()  # as a cluster's scheduler does
        run.wait(60)
    finally:
        run.kill()
    assert "is saved in" in (tmp_path / "output").read_text()
    taken = len(steps(tmp_path))
    last = start(tmp_path, 1, "entity_moe/digits", "--resume", "auto", batch_size=256, epochs=2)
    assert last.wait(300) == 0, (tmp_path / "output").read_text()
    assert [step["step"] for step in steps(tmp_path)] == list(range(1, len(steps(tmp_path)) + 1))
    assert len(steps(tmp_path)) > taken
    assert (tmp_path / "run" / "model.safetensors").exists()


@pytest.mark.slow
def test_accelerates_launcher_that_starts_one_process_of_two_is_noticed(tmp_path):
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "moezoo", "train"]
    command = [sys.executable, *launch, "entity_moe/digits", "--out", str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode != 0
    assert "torchrun --nproc-per-node 2" in " ".join((done.stdout + done.stderr).split())
