"""Reading files in threads while a model answers those before."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


def batches_ahead(
    paths: Iterable[str | os.PathLike[str]], read: Callable[[str], T], *, batch_size: int, threads: int
) -> Generator[list[tuple[str, T]], None, None]:
    """``(path, read(path))`` of every path, in their order, in batches; the next batch is read meanwhile.

    No more than two batches are held. ``paths`` may be endless.
    """
    source = iter(paths)
    pool = ThreadPoolExecutor(threads)

    def next_batch() -> list[tuple[str, Future[T]]]:
        taken = [os.fspath(path) for path in islice(source, batch_size)]
        return [(path, pool.submit(read, path)) for path in taken]

    try:
        batch = next_batch()
        while batch:
            found = [(path, future.result()) for path, future in batch]
            batch = next_batch()
            yield found
    finally:
        pool.shutdown(cancel_futures=True)
