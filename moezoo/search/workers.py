"""Processes that train designs for a search, and end with it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import torch

from moezoo.errors import ConfigError, DistributedError, Interrupted
from moezoo.moe.checks import check_int
from moezoo.train.progress import Silent

T = TypeVar("T")
MOST = 256
GRACE = 2.0
"""Seconds that a worker whose search is gone has to end its step and save."""
GONE = "a worker of the search was killed, perhaps for want of memory; what is finished is kept"
_parent: int | None = None


def check_workers(name: str, number: object) -> int:
    """``number`` of processes.

    Raises:
        ConfigError: It is not a whole number from 1 to 256, or this is one of several processes of a run.
    """
    checked = check_int(name, number, low=1, high=MOST)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a search starts its own processes: start moezoo search without a launcher of processes.")
    return checked


def orphaned() -> bool:
    """Whether this is a worker whose search is gone."""
    return _parent is not None and os.getppid() != _parent


class EndWithParent(Silent):
    """Stops a worker's run within a step when the search that started it is gone."""

    def step(self, *args: Any, **more: Any) -> None:
        if orphaned():
            raise Interrupted(signal.SIGTERM, "the search is gone")


def start_worker(parent: int, threads: int) -> None:
    """What a worker does first: Ctrl-C in a terminal reaches it too, and the search decides what happens."""
    global _parent
    _parent = parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_outlive_by_grace_alone, daemon=True).start()


def _outlive_by_grace_alone() -> None:
    """A worker without work waits for ever, also for a search that was killed."""
    search = multiprocessing.parent_process()
    if search is not None:
        search.join()
        time.sleep(GRACE)
        os._exit(1)


def threads_each(workers: int) -> int:
    """Threads that each of ``workers`` processes gets of those this one has."""
    return max(torch.get_num_threads() // workers, 1)


def each_in_a_worker(work: Callable[..., T], jobs: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, T]]:
    """``(index, work(*jobs[index]))`` as they are done, by ``workers`` new processes.

    An error of one ends all: those under way are told to stop.

    Raises:
        DistributedError: One was killed.
    """
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, context, initializer=start_worker, initargs=(os.getpid(), threads_each(workers))
    )
    waiting = list(enumerate(jobs))
    running: dict[Future[T], int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                index, job = waiting.pop(0)
                running[pool.submit(work, *job)] = index
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        raise DistributedError(f"{GONE}: the same call goes on from it") from None
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
