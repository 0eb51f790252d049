"""Work that one process does for all, and whose failure all of them see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

from moezoo import errors
from moezoo.errors import DistributedError, MoeZooError

T = TypeVar("T")


def on_main(work: Callable[[], T]) -> T:
    """``work()`` on the first process; its result, or its error, on every one.

    All processes call it together. Without ``torch.distributed`` it is a plain call.

    Raises:
        MoeZooError: What ``work`` raised on the first process.
        DistributedError: On the others, where the first process failed in a way moezoo has no class for.
    """
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return work()
    answer: list[Any] = [None, [], ""]
    if dist.get_rank() == 0:
        try:
            answer[0] = work()
        except BaseException as error:
            answer[1:] = [kind.__name__ for kind in type(error).__mro__], str(error)
            dist.broadcast_object_list(answer)
            raise
    dist.broadcast_object_list(answer)
    result, kinds, text = answer
    if not kinds:
        return result
    for kind in kinds:
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, MoeZooError):
            raise known(text)
    raise DistributedError(f"the first process failed: {kinds[0]}: {text}")
