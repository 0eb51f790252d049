"""``moezoo ablate``: what it prints, writes and refuses. What it does is in ``tests/ablate``."""

import csv

import ablation_toys
import pytest
from command_line import command


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_table_the_files_and_the_picture_come_out_and_a_second_call_reads_them(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        f"data: {{name: {ablation_toys.NAME}}}\n"
        "training: {epochs: 1, batch_size: 10, device: cpu}\nviz: {dpi: 40}\n"
        "vary: {budget: [0, 1], aggregator: [concat, mean], temperature: [1.0]}\n"
    )
    given = ("ablate", "attention_routing/digits", "--config", "mine.yaml", "--set", "aggregator=concat")
    given += ("--only", "budget", "--only", "aggregator")
    ended = command(*given)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "ablation-attention_routing-digits"
    for name in ("ablation.csv", "ablation.json", "ablation.png"):
        assert (folder / name).is_file()
        assert f"runs/ablation-attention_routing-digits/{name}" in ended.stdout
    with (folder / "ablation.csv").open(newline="") as file:
        rows = [(row["factor"], row["value"]) for row in csv.DictReader(file)]
    assert rows == [("base", ""), ("budget", "0"), ("budget", "1"), ("aggregator", "concat"), ("aggregator", "mean")]
    assert "attention_routing/digits: one factor at a time" in ended.stdout
    assert "concat •" in ended.stdout
    assert "aggregator=mean/seed-0  val " in ended.stdout
    again = command(*given)
    assert "2 of the runs are finished already" in again.stdout
    assert "aggregator=mean/seed-0" not in again.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("attention_routing/digitz",), "Did you mean: attention_routing/digits"),
        (("attention_routing/digits", "--only", "temprature"), "Did you mean: temperature"),
        (("attention_routing/digits", "--vary", "aggregater=mean"), "Did you mean: aggregator"),
        (("attention_routing/digits", "--vary", "aggregator=men"), "Did you mean: mean"),
        (("attention_routing/digits", "--vary", "budget=2"), "from 0 to 1"),
        (("attention_routing/digits", "--config", "none.yaml"), "none.yaml"),
        (("attention_routing/digits", "--seeds", "0"), "seeds=0"),
        (("entity_moe/digits",), "--vary factor=value,value"),
        (("entity_moe/digits", "--vary", "threshold=0.5"), "threshold"),
    ],
)
def test_what_cannot_be_done_is_one_message_and_leaves_no_folder(tmp_path, args, said):
    ended = command("ablate", *args)
    assert ended.returncode == 1, ended.stdout
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr
    assert not (tmp_path / "runs").exists()
