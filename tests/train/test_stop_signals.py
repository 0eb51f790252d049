"""SIGTERM and Ctrl-C: the step is finished and saved, and the run goes on from there as if nothing had been."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import torch
from nursery import alive, eventually
from same_run import assert_same_run

from moezoo.errors import Interrupted, MoeZooError
from moezoo.train.checkpoint import load_checkpoint, newest_checkpoint
from moezoo.train.signals import SAME_REQUEST, StopSignals

TRAIN = "faulty_runs:train"
READ = "faulty_runs:read_until_stopped"
SIGNALS = [(signal.SIGTERM, 143), (signal.SIGINT, 130)]


def workers_in(folder):
    return [int(path.name.partition("-")[2]) for path in folder.glob("worker-*")]


def insist(child, signum):
    """Signal until the child has ended: on a busy machine it may note the first signal late, and take the next one,
    if that comes in the same half second, for its echo."""

    def gone():
        child.kill(signum)
        time.sleep(0.05)
        return not alive(child.pid)

    eventually(gone, "the child has ended", 10.0)


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_the_first_signal_is_noted_and_handlers_come_back(signum, code):
    before = [signal.getsignal(s) for s, _ in SIGNALS]
    with StopSignals() as stop:
        assert stop.requested is None
        for _ in range(3):  # a launcher's echo is the same request
            os.kill(os.getpid(), signum)
        eventually(lambda: stop.requested == signum, "the signal arrives")
    assert [signal.getsignal(s) for s, _ in SIGNALS] == before
    error = Interrupted(signum, "step 7 is saved")
    assert isinstance(error, MoeZooError)
    assert error.exit_code == code
    assert str(error) == f"stopped by {signal.Signals(signum).name}: step 7 is saved"


def test_outside_the_main_thread_nothing_is_changed():
    before = [signal.getsignal(s) for s, _ in SIGNALS]
    seen = []

    def work():
        with StopSignals() as stop:
            seen.extend([stop.requested, *(signal.getsignal(s) for s, _ in SIGNALS)])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [None, *before]


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_signal_to_the_whole_group_leaves_the_workers_reading_until_the_loop_ends(nursery, tmp_path, signum, code):
    child = nursery.start(READ, tmp_path, True, log=tmp_path / "log")
    eventually(lambda: len(workers_in(tmp_path)) == 2, "both workers read")
    child.kill(signum, group=True)
    assert child.wait() == code, child.text()
    assert child.text() == ""
    assert len(workers_in(tmp_path)) == 2
    eventually(lambda: not any(map(alive, workers_in(tmp_path))), "the workers are gone", 10.0)


@pytest.mark.parametrize(("signum", "code"), SIGNALS)
def test_a_second_signal_ends_the_process_and_its_workers_at_once(nursery, tmp_path, signum, code):
    child = nursery.start(READ, tmp_path, False, log=tmp_path / "log")
    eventually(lambda: len(workers_in(tmp_path)) == 2, "both workers read")
    child.kill(signum)
    time.sleep(SAME_REQUEST + 0.1)
    assert alive(child.pid)
    insist(child, signum)
    assert child.wait() == code
    eventually(lambda: not any(map(alive, workers_in(tmp_path))), "the workers are gone", 10.0)


def test_workers_end_when_their_parent_is_killed(nursery, tmp_path):
    child = nursery.start(READ, tmp_path, False, log=tmp_path / "log")
    eventually(lambda: len(workers_in(tmp_path)) == 2, "both workers read")
    child.kill()
    eventually(lambda: not any(map(alive, workers_in(tmp_path))), "the workers are gone", 15.0)


def workers_of(pid):
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def stopped_at(log, signum):
    """The step that the message names; it names the checkpoint, too."""
    match = re.search(rf"stopped by {signal.Signals(signum).name}: step (\d+), .*step-0*(\d+)", log)
    assert match, log
    assert match[1] == match[2]
    return int(match[1])


@pytest.fixture(scope="module")
def plain(nursery, tmp_path_factory):
    """The same run without an interruption: 4 steps an epoch, 8 forwards."""
    folder = tmp_path_factory.mktemp("plain")
    log = folder / "log"
    assert nursery.run(TRAIN, folder, save_every=None, log=log) == 0, log.read_text()
    return folder


@pytest.mark.parametrize(
    ("signum", "workers", "step", "val_pause"),
    [
        pytest.param(signal.SIGTERM, 0, 2, 0.0, id="in the first epoch"),
        pytest.param(signal.SIGINT, 2, 5, 0.0, id="in the second epoch, workers reading"),
        pytest.param(signal.SIGTERM, 0, 4, 0.1, id="in a validation"),
        pytest.param(signal.SIGINT, 2, 9, 0.0, id="in the last epoch"),
    ],
)
def test_a_run_finishes_its_step_saves_and_goes_on_bit_for_bit(
    nursery, plain, tmp_path, signum, workers, step, val_pause
):
    options = {"num_workers": workers, "save_every": None, "log": tmp_path / "log"}
    pause = {"data": {"pause": 0.03}, "val_pause": val_pause}
    run = nursery.start(TRAIN, tmp_path, told=str(tmp_path), **pause, **options)
    eventually((tmp_path / f"told-{step}").exists, f"step {step} is done")
    helpers = workers_of(run.pid)
    assert len(helpers) >= workers
    run.kill(signum, group=True)
    assert run.wait() == 128 + signum, run.text()
    assert not any(map(alive, helpers))
    reached = stopped_at(run.text(), signum)
    assert reached == step if val_pause else reached >= step
    newest = newest_checkpoint(tmp_path / "checkpoints")
    assert newest.name == f"step-{reached:08d}"
    if reached % 4:  # in the middle of an epoch
        assert load_checkpoint(newest)[1]["standing"]["position"] == reached % 4 * 10
    assert nursery.run(TRAIN, tmp_path, **options) == 0, run.text()
    assert_same_run(plain, tmp_path)


def test_a_second_signal_leaves_the_checkpoint_before(nursery, tmp_path):
    slow = {"pause": 0.3}  # a step takes three seconds
    options = {"save_every": 1, "data": slow, "log": tmp_path / "log"}
    run = nursery.start(TRAIN, tmp_path, told=str(tmp_path), **options)
    eventually((tmp_path / "told-1").exists, "a step is done")
    run.kill(signal.SIGTERM)
    time.sleep(SAME_REQUEST + 0.1)
    insist(run, signal.SIGINT)
    assert run.wait() == 130
    tensors, values = load_checkpoint(newest_checkpoint(tmp_path / "checkpoints"))
    assert values["standing"]["step"] == 1
    assert all(torch.isfinite(tensor).all() for tensor in tensors["model"].values())


def test_one_of_two_processes_is_told_and_both_stop_at_the_same_step(nursery, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    options = {"data": {"pause": 0.01}, "save_every": None}
    runs = [
        nursery.start("faulty_runs:train_as", rank, 2, port, tmp_path, told=str(tmp_path), log=log, **options)
        for rank, log in enumerate((tmp_path / "log-0", tmp_path / "log-1"))
    ]
    eventually((tmp_path / "told-1").exists, "a step is done", 60.0)
    runs[1].kill(signal.SIGTERM)
    assert [run.wait() for run in runs] == [143, 143], runs[0].text() + runs[1].text()
    steps = {stopped_at(run.text(), signal.SIGTERM) for run in runs}
    assert len(steps) == 1
    assert newest_checkpoint(tmp_path / "checkpoints").name == f"step-{steps.pop():08d}"
    alone = nursery.start(TRAIN, tmp_path, save_every=None, log=tmp_path / "log")
    assert alone.wait() == 0, alone.text()
    assert "processes: 2 in the checkpoint, 1 now" in alone.text()


def test_the_command_line_ends_with_the_signals_code_and_resumes(nursery, tmp_path):
    words = ["train", "entity_moe/digits", "--out", str(tmp_path / "run"), "--resume", "auto", "--set"]
    run = nursery.start("faulty_runs:command_line", *words, "training.epochs=3", log=tmp_path / "log")
    eventually(lambda: (file := tmp_path / "run" / "steps.jsonl").exists() and file.read_text(), "a step is done", 60.0)
    run.kill(signal.SIGTERM)
    assert run.wait() == 143, run.text()
    step = stopped_at(run.text().replace("\n", " "), signal.SIGTERM)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints").name == f"step-{step:08d}"
    assert "Traceback" not in run.text()
