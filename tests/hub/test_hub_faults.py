"""Every fault of the table: the file or the push is whole, or the error is ours, says why, and leaks nothing."""

from __future__ import annotations

import logging
import re
import time
import traceback
import types

import huggingface_hub.utils._http as http
import pytest
from hub_fault_cases import PULLS, PUSHES, TOKEN, run_pull, run_push

from moezoo.errors import HubError
from moezoo.hub import commit, fetch


def cases(table):
    return [pytest.param(case, id=case.what, marks=[pytest.mark.slow] if case.slow else []) for case in table]


@pytest.fixture
def hurried(monkeypatch):
    """Neither we nor the client wait between attempts."""
    clock = types.SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in (http, fetch, commit):
        monkeypatch.setattr(module, "time", clock)


def all_about(error: BaseException | None) -> str:
    """Everything that a log or a tracker could print of an error, its hidden context included."""
    parts = []
    while error is not None:
        parts += [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
        error = error.__cause__ or error.__context__
    return "\n".join(parts)


def check(case, seen, caplog):
    found = type(seen.error).__name__ if seen.error else ""
    assert found == case.error, seen.error
    if seen.error is None:
        return
    assert isinstance(seen.error, HubError)
    assert re.search(case.says, str(seen.error), re.DOTALL)
    for part in (seen.error.cause, seen.error.tried, seen.error.advice):
        assert part
        assert part in str(seen.error)
    assert "SECRET-SIGNATURE" not in all_about(seen.error)
    told = [record.getMessage() for record in caplog.records]
    assert TOKEN not in all_about(seen.error) + "\n".join(told)


@pytest.mark.parametrize("case", cases(PULLS))
def test_a_pull_under_a_fault(case, hub, tmp_path, hurried, caplog):
    with caplog.at_level(logging.DEBUG):
        seen = run_pull(case, hub, tmp_path)
    check(case, seen, caplog)
    assert seen.seconds < 25


@pytest.mark.parametrize("case", cases(PUSHES))
def test_a_push_under_a_fault(case, hub, saved, hurried, caplog):
    with caplog.at_level(logging.DEBUG):
        seen = run_push(case, hub, saved)
    check(case, seen, caplog)
