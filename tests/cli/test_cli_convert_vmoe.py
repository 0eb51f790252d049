"""``moezoo convert vmoe``: from the JAX reference's checkpoints to a folder of ours, and back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import moezoo
from moezoo.cli import app
from moezoo.errors import ConfigError, OutputError, WeightsMismatch
from moezoo.hub.jax_files import read_jax, write_jax

STORED = Path(__file__).parents[1] / "fixtures" / "vmoe"


def run(*arguments):
    done = CliRunner().invoke(app, ["convert", "vmoe", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    """A training state in msgpack, its configuration as a training run keeps it, and the fixture's arrays."""
    folder = tmp_path_factory.mktemp("tight")
    with np.load(STORED / "vmoe_token_tight.npz") as file:
        arrays = {name: file[name] for name in file.files}
    params = {name: array for name, array in arrays.items() if name.startswith("params/")}
    moments = {name.replace("params/", "opt_state/0/mu/"): array for name, array in params.items()}
    write_jax({**params, **moments, "step": np.array(7)}, folder / "state.msgpack")
    config = json.loads((STORED / "vmoe_token_tight.json").read_text())["config"]
    (folder / "run.yaml").write_text(json.dumps({"seed": 0, "model": {"name": "VisionTransformerMoe", **config}}))
    return folder, arrays


def test_a_training_state_becomes_a_stored_model_and_goes_back_bit_by_bit(tight, tmp_path):
    folder, arrays = tight
    said = run(folder / "state.msgpack", "--config", folder / "run.yaml", "--out", tmp_path / "model")
    assert "vmoe, " in said
    assert "left out: opt_state, step (" in said
    model = moezoo.create_model(f"local-dir:{tmp_path / 'model'}", pretrained=True).eval()
    images = torch.from_numpy(arrays["input/image"]).permute(0, 3, 1, 2)
    assert (model(images) - torch.from_numpy(arrays["out/logits"])).abs().max() <= 1e-5
    for name in ("back.npz", "back.msgpack"):
        said = run(tmp_path / "model", "--to-jax", tmp_path / name, *(["--overwrite"] if "msgpack" in name else []))
        assert name in said.replace("\n", "")
        back = read_jax(tmp_path / name).params
        assert {f"params/{key}": array.tobytes() for key, array in back.items()} == {
            key: array.tobytes() for key, array in arrays.items() if key.startswith("params/")
        }
    run(tmp_path / "back.npz", "--config", tmp_path / "back.json", "--out", tmp_path / "again")
    files = [(tmp_path / each / "model.safetensors").read_bytes() for each in ("model", "again")]
    assert files[0] == files[1]
    with pytest.raises(OutputError, match=r"back\.npz.* exists.*--overwrite"):
        run(tmp_path / "model", "--to-jax", tmp_path / "back.npz")
    (tmp_path / "back.npz").unlink()
    with pytest.raises(OutputError, match=r"back\.json.* exists.*--overwrite"):
        run(tmp_path / "model", "--to-jax", tmp_path / "back.npz")


def test_a_name_of_ours_is_a_configuration_and_options_go_over_it(tight, tmp_path):
    folder, _ = tight
    digits = moezoo.create_model("vmoe/digits", num_classes=7)
    params, _ = moezoo.models.vmoe.to_jax(digits)
    write_jax({f"params/img/{name}": array for name, array in params.items()}, tmp_path / "towers.npz")
    run(
        tmp_path / "towers.npz",
        "--config",
        "vmoe/digits",
        "--key",
        "params/img",
        "-o",
        tmp_path / "m",
        "--set",
        "top_k=1",
    )
    config = moezoo.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True).moezoo_config
    assert (config.num_classes, config.top_k) == (7, 1)
    run(folder / "state.msgpack", "--config", folder / "run.yaml", "--out", tmp_path / "large", "--img-size", "48x32")
    large = moezoo.create_model(f"local-dir:{tmp_path / 'large'}", pretrained=True)
    assert large(torch.randn(1, 3, 48, 32)).shape == (1, 10)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (("--out", "m"), ConfigError, "--config is missing"),
        (("--config", "run.yaml"), ConfigError, "--out is missing"),
        (("--config", "run.yaml", "--to-jax", "x.npz"), ConfigError, "--config is not allowed with --to-jax"),
        (("--config", "nothing", "--out", "m"), ConfigError, "neither a .json or .yaml file nor the name of a model"),
        (("--config", "entity_moe/digits", "--out", "m"), ConfigError, "no model of vmoe or soft_moe"),
        (("--config", "run.yaml", "--out", "m", "--img-size", "big"), ConfigError, "--img-size='big' is not allowed"),
        (("--config", "vmoe/digits", "--out", "m"), WeightsMismatch, "the arrays do not fit the configuration"),
        (("--to-jax", "x.pkl"), ConfigError, "must end in .npz or .msgpack"),
    ],
)
def test_what_is_asked_wrongly_is_refused_and_nothing_written(tight, tmp_path, monkeypatch, options, error, message):
    folder, _ = tight
    monkeypatch.chdir(tmp_path)
    options = [folder / option if option == "run.yaml" else option for option in options]
    with pytest.raises(error, match=message):
        run(folder / "state.msgpack", *options)
    assert list(tmp_path.iterdir()) == []
