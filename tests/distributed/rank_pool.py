"""Gloo processes for tests, forked from a server that has imported torch once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

_server = multiprocessing.get_context("forkserver")
_server.set_forkserver_preload(["torch", "torch.distributed.tensor", "timm", "moezoo.moe", "moezoo.train.parallel"])


def run_ranks(
    world: int,
    function: Callable[..., Any],
    *args: Any,
    timeout: float = 120,
    patience: float = 60,
    dies: int | None = None,
) -> list[Any]:
    """``function(*args)`` in ``world`` processes that share a process group; what each returns, by rank.

    Args:
        world: How many.
        function: Of an importable module.
        timeout: Seconds for all of it.
        patience: Seconds that a process waits for another.
        dies: The rank that is not waited for, since it is meant to die or hang; its result is ``None``.

    Raises:
        AssertionError: One of them failed, with its traceback, or took longer than ``timeout`` seconds.
    """
    with tempfile.TemporaryDirectory() as folder:
        ranks = []
        for rank in range(world):
            here, there = _server.Pipe(duplex=False)
            work = (rank, world, os.path.join(folder, "store"), patience, there, dies is None, function, args)
            process = _server.Process(target=_work, args=work, daemon=True)
            process.start()
            there.close()
            ranks.append((process, here))
        try:
            return _results([here for _, here in ranks], timeout, dies)
        finally:
            for process, _ in ranks:
                process.kill()
                process.join()


def _results(pipes: list[Connection], timeout: float, dies: int | None) -> list[Any]:
    results: dict[int, Any] = {}
    end = time.monotonic() + timeout
    while waiting := [pipe for rank, pipe in enumerate(pipes) if rank not in results and rank != dies]:
        ready = wait(waiting, max(end - time.monotonic(), 0))
        assert ready, f"ranks {[pipes.index(pipe) for pipe in waiting]} of {len(pipes)} took more than {timeout} s"
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                fine, value = pickle.loads(pipe.recv_bytes())  # type: ignore[union-attr]
            except EOFError:
                fine, value = False, "it died"
            assert fine, f"rank {rank} of {len(pipes)}: {value}"
            results[rank] = value
    return [results.get(rank) for rank in range(len(pipes))]


def _work(
    rank: int,
    world: int,
    store: str,
    patience: float,
    pipe: Connection,
    wait_for_others: bool,
    function: Callable[..., Any],
    args: tuple,
) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # As torchrun does; the address is for those who only look whether there is one.
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="localhost")
    try:
        dist.init_process_group(
            "gloo", store=dist.FileStore(store, world), rank=rank, world_size=world, timeout=timedelta(seconds=patience)
        )
        pipe.send_bytes(pickle.dumps((True, function(*args))))  # not send, which would share tensors' memory
        if wait_for_others:
            dist.barrier()
    except BaseException:
        pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
