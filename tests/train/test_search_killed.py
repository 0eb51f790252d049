"""Searches that are killed go on, repeat nothing, and find what one that never was finds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


def finished(out: Path) -> dict[Path, int]:
    """The designs that are finished, and when they were."""
    return {path: path.stat().st_mtime_ns for path in out.glob("designs/*/design.json")}


def kill_at(nursery, function, args, log, out, number):
    """Start, and kill once ``number`` designs are finished and a further one has a checkpoint."""
    child = nursery.start(function, *args, log=log)
    while child.running():
        done = {path.parent.name for path in finished(out)}
        begun = {path.parents[1].name for path in out.glob("designs/*/checkpoints/step-*")}
        if len(done) >= number and begun - done:
            break
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -9, child.text()


def scores(path: Path) -> list:
    report = json.loads(path.read_text())
    return [(each["values"], each["score"], each["epochs"]) for each in report["spaces"]["tiny"]["designs"]]


@pytest.mark.slow
def test_a_killed_comparison_of_spaces_goes_on(nursery, tmp_path):
    out, plain, log = tmp_path / "out", tmp_path / "plain", tmp_path / "log"
    assert nursery.run("search_runs:edf", plain, log=log) == 0, log.read_text()
    before: dict[Path, int] = {}
    for number in (0, 1):
        kill_at(nursery, "search_runs:edf", (out,), log, out, number)
        assert finished(out).items() >= before.items(), "a finished design was trained again"
        before = finished(out)
    assert nursery.run("search_runs:edf", out, log=log) == 0, log.read_text()
    assert finished(out).items() >= before.items()
    assert scores(out / "edf.json") == scores(plain / "edf.json")


def test_a_killed_search_goes_on_with_what_was_under_way(nursery, tmp_path):
    out, log = tmp_path / "out", tmp_path / "log"
    kill_at(nursery, "search_runs:nas", (out, False), log, out, 2)
    before = finished(out)
    begun = {path.name for path in out.glob("designs/*")}
    assert len(begun) == len(before) + 1
    assert nursery.run("search_runs:nas", out, False, log=log) != 0
    assert "--resume" in log.read_text()
    assert nursery.run("search_runs:nas", out, True, log=log) == 0, log.read_text()
    assert finished(out).items() >= before.items(), "a finished design was trained again"
    result = json.loads((out / "result.json").read_text())
    assert len(result["trials"]) == 4
    tried = {path.name for path in out.glob("designs/*")}
    assert begun <= tried, "the design under way is one of those that were tried"
    assert len(tried) == 4


@pytest.mark.slow
def test_workers_of_a_killed_search_end_and_it_goes_on(nursery, tmp_path):
    line = [sys.executable, "-m", "moezoo", "search", "nas", "regnetx.small", "--trials", "5", "--epochs", "2"]
    line += ["--workers", "2", "--out", str(tmp_path)]
    search = subprocess.Popen(line, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 200
    while time.monotonic() < end and not finished(tmp_path):
        time.sleep(0.1)
    before = finished(tmp_path)
    assert before
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    assert subprocess.run([*line, "--resume"], stdout=subprocess.DEVNULL, timeout=300).returncode == 0
    assert finished(tmp_path).items() >= before.items()
    assert len(json.loads((tmp_path / "result.json").read_text())["trials"]) == 5
