"""A run that is killed again and again ends with the bits of one that never was."""

from __future__ import annotations

import itertools
import random
import time
import warnings
from pathlib import Path

import pytest
from nursery import Child
from same_run import assert_same_run

from moezoo.train.checkpoint import load_checkpoint, newest_checkpoint

TRAIN = "faulty_runs:train"
EPOCHS = 12
"""48 steps, a checkpoint after every second one."""
SAVE = "checkpoints/.saving-*"
MOMENTS = [("", 0), ("started", 1), ("told-*", 1), ("told-*", 2), ("told-*", 3), (SAVE, 1), (SAVE, 1)]
"""At once, when the run begins, some steps on, or as soon as a save is seen; and a random while after that."""


class Victim:
    """A run folder, and what has to hold after every kill in it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir()
        self.steps = 0
        self.orphans: set[str] = set()

    def forget_notes(self) -> None:
        for note in (*self.folder.glob("started"), *self.folder.glob("told-*")):
            note.unlink()

    def wait_for(self, pattern: str, count: int, child: Child) -> None:
        """Until so many files of this name are there that the kill before has not left, or the child is through."""
        while count and child.running():
            if len([path for path in self.folder.glob(pattern) if path.name not in self.orphans]) >= count:
                return

    def checked(self) -> bool:
        """Whether the kill hit a save. The newest checkpoint is whole, and nothing of the kill before is left."""
        left = {path.name for path in (self.folder / "checkpoints").glob(".*")}
        if (self.folder / "started").exists():
            assert not left & self.orphans, "what the kill before left was not tidied"
        self.orphans = left
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # none is damaged
            newest = newest_checkpoint(self.folder / "checkpoints")
        step = load_checkpoint(newest)[1]["standing"]["step"] if newest is not None else 0
        assert step >= self.steps, "a checkpoint was lost"
        self.steps = step
        return bool(left)


def seconds_of_a_step(folder: Path) -> float:
    """The median, half of them with a checkpoint."""
    noted = sorted(path.stat().st_mtime for path in folder.glob("told-*"))
    return sorted(later - earlier for earlier, later in itertools.pairwise(noted))[len(noted) // 2]


@pytest.mark.parametrize("kill_count", [20, pytest.param(60, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_nothing(nursery, tmp_path, kill_count):
    chance = random.Random(0)
    plain, log = tmp_path / "plain", tmp_path / "log"
    assert nursery.run(TRAIN, plain, told=str(tmp_path), resume=None, epochs=EPOCHS, log=log) == 0, log.read_text()
    pause = seconds_of_a_step(tmp_path)
    kills = in_a_save = runs = 0
    victim = Victim(tmp_path / "run-0")
    while kills < kill_count:
        victim.forget_notes()
        child = nursery.start(TRAIN, victim.folder, told=str(victim.folder), epochs=EPOCHS, log=log)
        victim.wait_for(*chance.choice(MOMENTS), child)
        time.sleep(chance.uniform(0, pause))
        child.kill()
        if child.wait() == -9:
            kills += 1
            in_a_save += victim.checked()
        else:  # this one has come to its end
            assert_same_run(plain, victim.folder)
            runs += 1
            victim = Victim(tmp_path / f"run-{runs}")
    reached = runs * 4 * EPOCHS + victim.steps
    assert nursery.run(TRAIN, victim.folder, epochs=EPOCHS, log=log) == 0, log.read_text()
    assert_same_run(plain, victim.folder)
    assert in_a_save >= kill_count // 20, "some kills are to hit a save"
    assert reached >= kill_count // 4, "most kills are to hit a run that gets on"
