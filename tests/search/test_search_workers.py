"""Processes that train for a search do not outlive it."""

import os
import signal
import subprocess
import sys
import time

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
