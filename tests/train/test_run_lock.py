"""A run folder has one owner at a time."""

from __future__ import annotations

import json
import logging
import os
import socket
import time

import pytest
from nursery import alive, eventually

from moezoo.errors import OutputError, RunLockedError
from moezoo.train import lock
from moezoo.train.lock import own_run_folder

OWN = "faulty_runs:hold"


def test_a_second_process_is_refused_with_the_first_ones_number_host_and_time(nursery, tmp_path):
    first = nursery.start(OWN, tmp_path, tmp_path / "ready", 60.0, log=tmp_path / "first")
    eventually((tmp_path / "ready").exists, "the first has the lock")
    words = rf"in use by process {first.pid} on {socket.gethostname()} since {time.strftime('%Y')}-\d\d-\d\dT"
    with pytest.raises(RunLockedError, match=words), own_run_folder(tmp_path):
        pass
    second = nursery.start(OWN, tmp_path, tmp_path / "never", 60.0, log=tmp_path / "second")
    assert second.wait() == 1
    assert f"RunLockedError: run folder '{tmp_path}' is in use by process {first.pid}" in second.text()
    assert alive(first.pid)
    first.kill()


def test_the_lock_of_a_killed_owner_is_taken_over_at_once_even_while_its_worker_lives(nursery, tmp_path):
    owner = nursery.start(OWN, tmp_path, tmp_path / "ready", 60.0, True, log=tmp_path / "log")
    eventually((tmp_path / "ready").exists, "the owner has the lock")
    owner.kill()
    assert owner.wait() == -9
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == owner.pid
    with own_run_folder(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
        os.killpg(owner.pid, 0)  # the worker is there still
    owner.kill(group=True)
    assert not (tmp_path / "run.lock").exists()


def test_one_owner_in_one_process_too_and_none_is_left_behind(tmp_path):
    with own_run_folder(tmp_path):
        with pytest.raises(RunLockedError, match=f"process {os.getpid()} "), own_run_folder(tmp_path):
            pass
        assert (tmp_path / "run.lock").exists()
    with pytest.raises(KeyError), own_run_folder(tmp_path):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run.lock").write_text("not JSON")
    with own_run_folder(tmp_path):
        pass


def test_a_folder_without_room_for_a_lock_is_an_output_error(tmp_path):
    with pytest.raises(OutputError, match=r"there.run\.lock"), own_run_folder(tmp_path / "not" / "there"):
        pass


def test_where_there_are_no_locks_the_run_goes_on_and_says_so(tmp_path, monkeypatch, caplog):
    def flock(*args):
        raise OSError(95, "Operation not supported")

    with caplog.at_level(logging.WARNING):
        monkeypatch.setattr(lock.fcntl, "flock", flock)
        with own_run_folder(tmp_path), own_run_folder(tmp_path):
            pass
    assert "no locks (Operation not supported)" in caplog.text
    monkeypatch.setattr(lock, "fcntl", None)
    with own_run_folder(tmp_path), own_run_folder(tmp_path):
        pass
