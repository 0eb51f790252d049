"""Processes that train for a search do not outlive it."""

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moezoo.errors import Interrupted

SCRIPT = """
import os
import sys

from moezoo.search.workers import each_in_a_worker

if __name__ == "__main__":
    for _, pid in each_in_a_worker(os.getpid, [()], 1):
        print(pid, flush=True)
        sys.stdin.read()
"""


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_idle_worker_ends_when_its_search_is_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    search = subprocess.Popen([sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    worker = int(search.stdout.readline())
    assert alive(worker)
    os.kill(search.pid, signal.SIGKILL)
    search.wait()
    end = time.monotonic() + 30
    while alive(worker) and time.monotonic() < end:
        time.sleep(0.1)
    ended = not alive(worker)
    if not ended:
        os.kill(worker, signal.SIGKILL)
    assert ended


def test_a_worker_can_hand_over_that_a_signal_came():
    error = pickle.loads(pickle.dumps(Interrupted(15, "epoch 2")))
    assert (str(error), error.exit_code) == ("stopped by SIGTERM: epoch 2", 143)


KILLED = """
import multiprocessing
import os
import signal
import sys

sys.path.insert(0, {folder!r})
import search_toys

from moezoo.errors import DistributedError
from moezoo.search import ArchitectureSearch, compare_spaces


class Deadly(search_toys.Tiny):
    def draw(self, choose):  # while it holds the lock of the workers
        return self.die("draw") or super().draw(choose)

    def prepare(self, *arguments):
        return self.die("prepare") or super().prepare(*arguments)

    def die(self, when):
        if multiprocessing.parent_process() and when == sys.argv[1] and not os.path.exists("died"):
            open("died", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)


def search(**options):
    if sys.argv[1] == "draw":
        return ArchitectureSearch(Deadly(), trials=3, workers=2, out="out", **options).search().trials
    return compare_spaces([Deadly()], "out", samples=3, jobs=2).spaces["tiny"]


if __name__ == "__main__":
    try:
        search()
    except DistributedError as error:
        print(error)
    print(len(search(resume=True)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("when", "how"), [("draw", "--resume"), ("prepare", "the same call")])
def test_a_killed_worker_ends_the_search_which_goes_on(when, how, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED.format(folder=str(Path(__file__).parent)))
    done = subprocess.run([sys.executable, script, when], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    said, finished = done.stdout.splitlines()
    assert "a worker of the search was killed" in said
    assert how in said
    assert finished == "3"
