"""``moezoo search``: spaces, edf and nas as typed."""

import json
import sys
from pathlib import Path

import pytest
from command_line import command

sys.path.append(str(Path(__file__).parents[1] / "search"))
import search_toys

search_toys.add()


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_edf_writes_table_and_picture_and_goes_on():
    line = ("search", "edf", "tiny", "tiny_too", "--samples", 2, "--epochs", 1, "--out", "out", "--jobs", 1)
    ended = command(*line)
    assert ended.returncode == 0, ended.stderr
    assert "4/4" in ended.stdout
    assert {path.name for path in Path("out").iterdir()} >= {"edf.csv", "edf.json", "edf.png", "search.json"}
    assert "4 of the designs are finished already" in command(*line).stdout
    ended = command(*line, "--seed", 1)
    assert ended.returncode == 1
    assert "holds another search" in ended.stderr
    assert "seed: 0 there, 1 now" in ended.stderr


def test_nas_says_what_is_best_and_goes_on_when_told():
    line = ("search", "nas", "tiny", "--trials", 2, "--epochs", 1, "--constraint", "depth=1", "--workers", 1)
    ended = command(*line)
    assert ended.returncode == 0, ended.stderr
    assert "tested once: test_top1" in ended.stdout
    out = Path("runs/search-tiny")
    assert {path.name for path in out.iterdir()} >= {"journal.log", "search.csv", "result.json", "front.png"}
    assert all(each["values"]["depth"] == 1 for each in json.loads((out / "result.json").read_text())["trials"])
    ended = command(*line)
    assert ended.returncode == 1
    assert "--resume" in ended.stderr
    assert command(*line, "--resume").returncode == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("edf", "tinny"), "Did you mean: tiny"),
        (("edf", "tiny", "--jobs", 0), "jobs=0 is not allowed"),
        (("edf", "tiny", "--flops", "1"), "LOW,HIGH"),
        (("edf", "tiny", "--set", "training.epoch=3"), "Did you mean: epochs"),
        (("nas", "entity_moe/test_vit"), "--vary key=value"),
        (("nas", "tiny", "--constraint", "widht>=4"), "Did you mean: width"),
    ],
)
def test_mistakes_are_told(line, message):
    ended = command("search", *line)
    assert ended.returncode == 1
    assert message in ended.stderr


def test_spaces_are_listed():
    ended = command("search", "spaces")
    for name in ("anynetx_a", "regnety.small", "entity_moe/digits", "multiscale_moe/synthetic"):
        assert name in ended.stdout
