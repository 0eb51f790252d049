"""``moezoo bench --profile`` as typed."""

import json

from command_line import command

SMALL = ("--set", "img_encoder_layers=1", "--set", "text_encoder_layers=1", "--set", "fusion_layers=1")


def test_profile_prints_tables_and_leaves_traces_pictures_and_figures(tmp_path):
    options = ["--steps", "1", "--warmup", "0", "-b", "2", "--device", "cpu", "--threads", "1"]
    result = command("bench", "diff_moe/digits", "--profile", "--profile-dir", tmp_path, *options, *SMALL)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "diff_moe-digits"
    report = json.loads((folder / "profile.json").read_text())
    assert report["batch_size"] == 2
    assert [phase["name"] for phase in report["training"]["phases"]] == ["forward", "loss", "backward", "optimizer"]
    for name in ("profile.png", "memory.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    for words in ("optimizer", "img_encoder.blocks.0", "Each expert alone", str(folder / "training.trace.json.gz")):
        assert words in result.stdout


def test_what_does_not_go_with_a_profile_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for options, words in ((["-b", "1", "-b", "2"], "--batch-size is given 2 times"), (["--out", "a.md"], "a.md")):
        result = command("bench", "diff_moe/digits", "--profile", *options)
        assert result.returncode == 1
        assert words in result.stderr
    assert not list(tmp_path.iterdir())
