"""The quickstart of models that take text: its table and pictures are those of what was learnt."""

import json

import pytest
import typer
from typer.testing import CliRunner

import moezoo
from moezoo.cli.quickstart import quickstart
from moezoo.errors import ConfigError

TINY = ["embed_dim=16", "num_heads=2", "img_encoder_layers=1", "mlp_ratio=1.0", "training.epochs=1", "viz.dpi=40"]
SMALL_DATA = [f"data.{part}_images=40" for part in ("train", "val", "test")]
CASES = {
    "diff_moe/digits": (["fusion_layers=1"], {"val_accuracy", "test_accuracy", "test_zero_shot"}, "zero-shot accuracy"),
    "diff_moe/shapes": (["text_encoder_layers=1", *SMALL_DATA], {"val_recall_at_1", "test_text_to_image_r1"}, "R@1"),
    "diff_moe/shapes.captioner": (
        ["decoder_layers=1", *SMALL_DATA],
        {"val_token_accuracy", "test_exact_match", "test_bleu"},
        "exact match",
    ),
}


def run(*words):
    app = typer.Typer()
    app.command()(quickstart)
    result = CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "100"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("diff_moe/digits", marks=pytest.mark.slow),
        pytest.param("diff_moe/shapes", marks=pytest.mark.slow),
        "diff_moe/shapes.captioner",
    ],
)
def test_the_quickstart_compares_what_was_learnt(name, tmp_path):
    settings, scores, said = CASES[name]
    flags = [word for pair in (*TINY, *settings) for word in ("--set", pair)]
    output = run("--model", name, "--out", tmp_path / "out", *flags)
    figures = json.loads((tmp_path / "out" / "comparison.json").read_text())
    for title in ("MoE", "dense twin"):
        assert scores <= set(figures[title])
        assert 0 <= figures[title][min(scores)] <= 1
    assert figures["MoE"]["executed_flops_per_image"] == pytest.approx(
        figures["dense twin"]["executed_flops_per_image"], rel=0.1
    )
    assert said in output
    assert output.count("equal bit for bit") == 2
    assert name in output
    assert (tmp_path / "out" / "training.png").read_bytes().startswith(b"\x89PNG")
    model = moezoo.create_model(f"local-dir:{tmp_path / 'out' / 'moe'}", pretrained=True)
    assert model.tokenizer is not None
    card = json.loads((tmp_path / "out" / "moe" / "config.json").read_text())["metrics"]
    assert {score for score in scores if score not in ("test_accuracy", "val_accuracy")} <= set(card)
    twin = moezoo.create_model(f"local-dir:{tmp_path / 'out' / 'dense'}", pretrained=True)
    assert twin.moezoo_config.dense
    assert twin.moezoo_config.captioner == model.moezoo_config.captioner


def test_a_twin_has_no_twin_of_its_own(tmp_path):
    with pytest.raises(ConfigError, match="has no dense twin"):
        run("--model", "diff_moe/digits.dense", "--out", tmp_path)
