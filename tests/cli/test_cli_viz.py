"""``moezoo viz`` as typed: of models that read and write sentences, of token routing, and on photographs."""

import pytest
import torch
import typer
from command_line import command
from typer.testing import CliRunner

import moezoo
from moezoo.data import load_dataset
from moezoo.data.text import make_tokenizer
from moezoo.errors import ConfigError

SHAPES = {"train_images": 12, "val_images": 4, "test_images": 12}
TINY = {
    "embed_dim": 8,
    "num_heads": 2,
    "mlp_ratio": 1.0,
    "img_encoder_layers": 1,
    "text_embed_dim": 8,
    "vocab_size": 400,
}


@pytest.mark.parametrize(
    ("name", "small"),
    [
        ("diff_moe/shapes.captioner", {"decoder_layers": 1}),
        ("diff_moe/shapes", {"text_encoder_layers": 1, "fusion_layers": 1}),
    ],
)
def test_pictures_of_a_stored_model_on_captioned_images(name, small, tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model(name, **TINY, **small)
    splits = load_dataset("shapes", **SHAPES)
    sentences = [sentence for i in range(len(splits.train)) for sentence in splits.train.captions(i)]
    model.tokenizer = make_tokenizer(sentences, vocab_size=400, kind="bpe")
    moezoo.save_pretrained(model, tmp_path / "model")
    options = [f"data.{key}={value}" for key, value in SHAPES.items()]
    options += ["data.name=shapes", "viz.images=2", "viz.dpi=40", "training.device=cpu"]
    options = [part for option in options for part in ("--set", option)]
    result = command("viz", f"local-dir:{tmp_path / 'model'}", "--out", tmp_path / "viz", *options)
    assert result.returncode == 0, result.stderr
    names = {path.stem for path in (tmp_path / "viz").iterdir()}
    assert names == {"predictions", "routing", "expert_regions", "expert_load", "attention", "image_text"}
    assert str(tmp_path / "viz" / "image_text.png") in result.stdout


@pytest.fixture
def viz():
    from moezoo.cli.viz import viz

    app = typer.Typer()
    app.command()(viz)

    def run(*args):
        result = CliRunner().invoke(app, [*map(str, args), "--set", "viz.dpi=40", "--set", "training.device=cpu"])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    return run


def test_photographs_need_no_data_set(viz, tmp_path):
    torch.manual_seed(0)
    model = moezoo.create_model("attention_routing/digits", big_hidden_dim=8, big_layers=1)
    moezoo.save_pretrained(model, tmp_path / "model")
    output = viz(f"local-dir:{tmp_path / 'model'}", "--photos", "--budget", 0.25, "--out", tmp_path / "photos")
    drawn = {"photos_attention_heat", "photos_routing_decisions", "photos_patch_grid"}
    assert {path.stem for path in (tmp_path / "photos").iterdir()} == drawn
    assert "photos_patch_grid.png" in output
    with pytest.raises(ConfigError, match="no data set"):
        viz(f"local-dir:{tmp_path / 'model'}", "--out", tmp_path / "none")


def test_a_model_with_nothing_to_draw_says_so_beside_the_pictures_of_its_data_set(viz, tmp_path):
    name = "attention_routing/digits.full_compute"
    options = ["--set", "data.name=digits", "--set", "viz.images=1"]
    output = " ".join(viz(name, "--photos", "--out", tmp_path, *options).split())
    assert "neither MoE layers nor attention" in output
    assert "no routing to draw" in output
    assert {path.stem for path in tmp_path.iterdir()} == {"predictions", "confusion", "reliability"}
    with pytest.raises(ConfigError, match="budget"):
        viz(name, "--photos", "--budget", 0.5, "--out", tmp_path, *options)
