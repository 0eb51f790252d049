"""Showing a simulation on the terminal while it goes on."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console

from moezoo.federated.result import RoundResult
from moezoo.train.work_bar import WorkBar


class Watcher(Protocol):
    """What :func:`~moezoo.federated.simulate` tells."""

    def begin(self, steps: int, done: int) -> None: ...
    def step(self, done: int, method: str, round: int, client: int) -> None: ...
    def round(self, method: str, result: RoundResult) -> None: ...
    def stop(self) -> None: ...


class Unwatched:
    """Shows nothing."""

    def begin(self, steps: int, done: int) -> None: ...
    def step(self, done: int, method: str, round: int, client: int) -> None: ...
    def round(self, method: str, result: RoundResult) -> None: ...
    def stop(self) -> None: ...


class FederatedBar(WorkBar):
    """One bar over all that is trained, with the time left; a line stays for every round. In a log file only those.

    Args:
        title: What is trained.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        super().__init__(title, console)

    def begin(self, steps: int, done: int) -> None:
        self.show(steps, done, note="going on from the newest round" if done else "")

    def step(self, done: int, method: str, round: int, client: int) -> None:
        self.update(completed=done, description=f"{method}, round {round}, client {client}")

    def round(self, method: str, result: RoundResult) -> None:
        low, high = (f([score.everywhere for score in result.clients]) for f in (min, max))
        line = f"{method} round {result.round}  val {result.everywhere:.1%} ({low:.1%} to {high:.1%})"
        if result.server is not None:
            line += f"  global {result.server:.1%}"
        line += f"  own {result.own:.1%}  loss {result.loss:.3f}  {result.seconds:.1f} s"
        self.line(line)
        for client, reason in result.failed.items():
            self.line(f"  without client {client}: {reason}")
