"""A few worker processes that outlive whatever a task does to them: a crash or a hang is that task's answer."""

from __future__ import annotations

import multiprocessing
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

TASKS_PER_WORKER = 60
"""Then a fresh process takes over: timm and the tracer keep caches that grow with every new model."""


class Worker:
    """One process that answers one task at a time."""

    def __init__(self, function: Callable[..., Any]):
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(function, theirs), daemon=True)
        self.process.start()
        theirs.close()
        self.task: Any = None
        self.started = 0.0
        self.done = 0

    def give(self, task: Any) -> None:
        """Start ``task``; the answer arrives in the pipe."""
        self.task, self.started = task, time.monotonic()
        self.pipe.send(task)

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_all(
    function: Callable[..., Any], tasks: Iterable[Any], jobs: int, limit: float
) -> Iterator[tuple[Any, Any, str]]:
    """Answers to all tasks as they come: (task, ``function(*task)`` or ``None``, what became of the process).

    Args:
        function: Importable; it and its arguments and answers travel between processes.
        tasks: Tuples of arguments.
        jobs: Processes at a time.
        limit: Seconds for one task; one that takes longer is ended.
    """
    waiting = deque(tasks)
    workers: list[Worker] = []
    try:
        while waiting or any(w.task is not None for w in workers):
            while waiting and len(workers) < jobs:
                workers.append(Worker(function))
            for worker in workers:
                if worker.task is None and waiting:
                    worker.give(waiting.popleft())
            ready = wait([w.pipe for w in workers if w.task is not None], timeout=1.0)
            for worker in [w for w in workers if w.task is not None]:
                answer, fate = _read(worker, limit) if worker.pipe in ready or _late(worker, limit) else (None, None)
                if fate is None:
                    continue
                yield worker.task, answer, fate
                worker.task, worker.done = None, worker.done + 1
                if fate or worker.done >= TASKS_PER_WORKER:
                    worker.stop()
                    workers.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def _late(worker: Worker, limit: float) -> bool:
    return time.monotonic() - worker.started > limit


def _read(worker: Worker, limit: float) -> tuple[Any, str]:
    if not worker.pipe.poll():
        return None, f"no answer within {limit:g} s"
    try:
        return worker.pipe.recv(), ""
    except EOFError:
        worker.process.join()
        return None, f"the process died (exit code {worker.process.exitcode})"


def _serve(function: Callable[..., Any], pipe: Connection) -> None:
    while True:
        try:
            task = pipe.recv()
        except EOFError:  # the parent is gone
            return
        pipe.send(function(*task))
