"""Being asked to stop: the step is finished and saved first."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

SAME_REQUEST = 0.5
"""Seconds within which a second signal is an echo of the first: launchers pass on what the process got already."""


class StopSignals:
    """While open, the first SIGTERM or SIGINT is only noted, for the loop to look at between steps.

    A second one, half a second or more later, ends the process at once with 128 plus the signal's number, and its
    data workers with it. Outside the main thread, where Python cannot handle signals, nothing is changed.
    """

    requested: int | None = None
    """The signal that came; ``None`` so far."""

    def __enter__(self) -> StopSignals:
        self._before: dict[int, Any] = {}
        self._time = 0.0
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._before[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for signum, handler in self._before.items():
            # None stands for a handler that was not set from Python, and cannot be set from it.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested is None:
            self.requested, self._time = signum, time.monotonic()
        elif time.monotonic() - self._time >= SAME_REQUEST:
            with contextlib.suppress(Exception):
                for child in multiprocessing.active_children():
                    child.kill()
            os._exit(128 + signum)


def shield_worker(worker_id: int = 0) -> None:
    """``worker_init_fn`` of a data loader: the worker goes on when its whole process group is told to stop.

    Ctrl-C in a terminal, and launchers, signal the workers too; but the step that is to be finished may need them.
    They still end when the process that started them says so, or is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, name="stop-signals", daemon=True).start()


def _obey_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
