"""An ablation that is killed again and again ends with the table and the bits of one that never was."""

from __future__ import annotations

import csv
import random
import time
from pathlib import Path

import pytest

from moezoo.train.checkpoint import newest_checkpoint

RUN = "ablation_runs:run"
FINISHED = "ablation_result.json"
MOMENTS = (
    "base/seed-0/checkpoints/step-00000002",  # half trained
    "patch_grid_size=2/seed-0/metrics.json",  # trained, its result not written or just so
    "variant=dense/seed-0/checkpoints/step-00000004",
    "base/seed-0/ablation_dials.json",  # one of three dials turned
)


def table(out: Path) -> list[dict[str, str]]:
    """``ablation.csv`` but for the seconds, which alone may differ."""
    with (out / "ablation.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def weights(out: Path) -> dict[str, bytes]:
    return {path.parts[-3]: path.read_bytes() for path in out.glob("runs/*/*/model.safetensors")}


def finished(out: Path) -> dict[Path, int]:
    """When the finished runs were."""
    return {path: path.stat().st_mtime_ns for path in out.glob(f"runs/*/*/{FINISHED}")}


def assert_ended_alike(out: Path, plain: Path) -> None:
    assert table(out) == table(plain)
    assert weights(out) == weights(plain)


@pytest.fixture(scope="module")
def plain(nursery, tmp_path_factory):
    """One that nothing happened to."""
    folder = tmp_path_factory.mktemp("plain")
    assert nursery.run(RUN, folder / "out", log=folder / "log") == 0, (folder / "log").read_text()
    return folder / "out"


def test_kills_between_and_within_runs_change_nothing_and_repeat_nothing(nursery, tmp_path, plain):
    out, log = tmp_path / "out", tmp_path / "log"
    before: dict[Path, int] = {}
    for moment in MOMENTS:
        child = nursery.start(RUN, out, log=log)
        while child.running() and not (out / "runs" / moment).exists():
            time.sleep(0.001)
        child.kill()
        assert child.wait() == -9, child.text()
        now = finished(out)
        assert now.items() >= before.items(), "a finished run was repeated"
        before = now
        if "checkpoints" in moment:  # there is something to go on from
            assert newest_checkpoint((out / "runs" / moment).parent) is not None
    step = newest_checkpoint(out / "runs/variant=dense/seed-0/checkpoints")
    assert len(before) == 3
    assert step is None, "of a finished run nothing is gone on with"
    assert nursery.run(RUN, out, log=log) == 0, log.read_text()
    assert finished(out) == before
    assert_ended_alike(out, plain)
    assert [row["value"] for row in table(out)] == ["", "2", "4", "base", "dense", "0", "0.5", "1"]


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(nursery, tmp_path, plain):
    chance, out, log = random.Random(0), tmp_path / "out", tmp_path / "log"
    for _ in range(25):
        child = nursery.start(RUN, out, log=log)
        time.sleep(chance.uniform(0.2, 3.0))
        child.kill()
        child.wait()
    assert nursery.run(RUN, out, log=log) == 0, log.read_text()
    assert_ended_alike(out, plain)
