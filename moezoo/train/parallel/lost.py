"""A process that is gone: the others end with an error that says so, instead of the transport's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from moezoo.errors import DistributedError, MoeZooError

_SIGNS = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "TCPStore", "Timed out")
"""What the texts of torch's errors hold when a peer is gone; most are plain RuntimeErrors."""


@contextmanager
def lost_processes() -> Iterator[None]:
    """Around a run: a failed exchange with another process becomes a :class:`~moezoo.errors.DistributedError`."""
    try:
        yield
    except MoeZooError:
        raise
    except RuntimeError as error:
        text = str(error)
        if not (isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS)):
            raise
        rank = dist.get_rank() if dist.is_initialized() else 0
        raise DistributedError(
            f"process {rank} lost another process of the run, which died or did not answer in time ({_first(text)}). "
            "Look for the first error among the outputs of the other processes; one killed for lack of memory leaves "
            "none but a line in the system's log. --resume auto goes on from the last checkpoint."
        ) from error


def _first(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no text"
