"""The scan over timm's architectures: its files, taking up where a run was cut off, and tasks that crash or hang."""

import json
import os
import time

import pytest
from benchmark_scripts import SCRIPTS, run_script


@pytest.fixture
def run_all(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    from workers import run_all

    return run_all


def scan(out, *args):
    """Without processes of its workers, which the tests below are about."""

    def here(function, tasks, jobs, limit):
        return ((task, function(*task), "") for task in tasks)

    return run_script("coverage", "--out", out, *args, run_all=here)


def test_two_architectures_are_answered_and_a_second_run_asks_only_for_what_is_missing(tmp_path):
    printed = scan(tmp_path, "test_resnet")
    log = tmp_path / "coverage.jsonl"
    assert "| **all** | **1** | **1 (100.0%)** | **1** | | |" in printed
    first = json.loads(log.read_text())
    assert first["places"] == ["layer4.0.entity_moe"]
    assert (first["injected"], first["features"], first["maps"], first["layouts"]) == ("", "", 5, ["NCHW"])

    log.write_text(json.dumps(first | {"seconds": -1}) + '\n{"arch": "test_vit", "whe')  # a run that was killed
    printed = scan(tmp_path, "test_resnet", "test_vit")
    assert printed == (tmp_path / "coverage.md").read_text() + "\n"
    result = json.loads((tmp_path / "coverage.json").read_text())
    assert (result["architectures"], result["injected"]) == (2, 2)
    assert [row["places"] for row in result["rows"]] == [["layer4.0.entity_moe"], ["blocks.5.entity_moe"]]
    assert result["rows"][0]["seconds"] == -1  # not asked again


def test_a_crash_or_a_hang_is_the_answer_of_its_task_alone(run_all):
    answers = {task: (answer, fate) for task, answer, fate in run_all(os._exit, [(3,), (4,)], jobs=2, limit=60)}
    assert answers == {
        (3,): (None, "the process died (exit code 3)"),
        (4,): (None, "the process died (exit code 4)"),
    }
    start = time.monotonic()
    answers = {task: fate for task, _, fate in run_all(time.sleep, [(0.0,), (600.0,), (0.1,)], jobs=1, limit=10)}
    assert answers == {(0.0,): "", (600.0,): "no answer within 10 s", (0.1,): ""}
    assert time.monotonic() - start < 60


def test_answers_come_back_with_their_tasks_from_several_processes(run_all):
    assert {task: answer for task, answer, _ in run_all(divmod, [(n, 3) for n in range(9)], jobs=2, limit=60)} == {
        (n, 3): divmod(n, 3) for n in range(9)
    }
