"""Fresh processes in milliseconds: one that has imported torch and forks itself for every call.

As a script it is that process. It never trains itself, so no thread of torch's is lost in a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any


class Child:
    """A forked process, leader of a process group of its own."""

    def __init__(self, nursery: Nursery, pid: int, log: Path):
        self.nursery, self.pid, self.log = nursery, pid, log

    def wait(self, timeout: float = 60.0) -> int:
        """The exit code, minus the signal's number where one ended it; a child that hangs fails the test."""
        code = self.nursery.ask(["wait", self.pid, timeout])
        assert code is not None, f"still running after {timeout} s:\n{self.text()}"
        return code

    def running(self) -> bool:
        return alive(self.pid)

    def kill(self, signum: int = signal.SIGKILL, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(self.pid, signum)

    def text(self) -> str:
        """What it has printed and raised."""
        return self.log.read_text()


class Nursery:
    """Starts children that call ``module:function`` of this folder with JSON arguments."""

    def __init__(self) -> None:
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def start(self, function: str, *args: Any, log: Path, **options: Any) -> Child:
        words = [str(arg) if isinstance(arg, Path) else arg for arg in args]
        return Child(self, self.ask(["start", function, words, options, str(log)]), log)

    def run(self, function: str, *args: Any, log: Path, timeout: float = 60.0, **options: Any) -> int:
        return self.start(function, *args, log=log, **options).wait(timeout)

    def ask(self, request: list[Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, "the nursery is gone"
        return json.loads(answer)

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


def eventually(true: Any, what: str, timeout: float = 30.0) -> None:
    """Wait until ``true()``."""
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end, f"{what}: not after {timeout} s"
        time.sleep(0.002)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _start(function: str, args: list[Any], options: dict[str, Any], log: str) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (descriptor, 1), (descriptor, 2)):
            os.dup2(source, target)
        module, _, name = function.partition(":")
        code = getattr(importlib.import_module(module), name)(*args, **options) or 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(children: set[int], pid: int, timeout: float) -> int | None:
    end = time.monotonic() + timeout
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            children.discard(pid)
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            return None
        time.sleep(0.002)


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    importlib.import_module("faulty_runs").warm_up()
    children: set[int] = set()
    for line in sys.stdin:
        verb, *request = json.loads(line)
        if verb == "start":
            answer: int | None = _start(*request)
            children.add(answer)  # type: ignore[arg-type]
        else:
            answer = _wait(children, *request)
        print(json.dumps(answer), flush=True)
    for pid in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    sys.stdout.flush()
    os._exit(0)  # torch takes seconds to leave in order


if __name__ == "__main__":
    main()
