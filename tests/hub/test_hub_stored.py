"""``read_stored``: ``config.json`` is data from a stranger; what does not fit is refused by name."""

from __future__ import annotations

import json
import time

import pytest

import moezoo
from moezoo.errors import ConfigError, MoeZooError, UnknownModelError, WeightsMismatch, WeightsUnavailable
from moezoo.hub.schema import CONFIG_LIMIT
from moezoo.hub.stored import read_stored


def edit(folder, **changes):
    """``config.json`` with these keys changed (``...`` deletes one); returns the stored name."""
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return f"local-dir:{folder}"


def test_a_missing_folder_names_the_file_looked_for(tmp_path):
    with pytest.raises(WeightsUnavailable, match=str(tmp_path / "nothing" / "config.json")):
        read_stored(f"local-dir:{tmp_path / 'nothing'}")


def test_missing_weights_are_told_when_asked_for(saved):
    (saved / "model.safetensors").unlink()
    stored = read_stored(f"local-dir:{saved}")
    assert stored.name == "entity_moe/digits"
    with pytest.raises(WeightsUnavailable, match=r"model\.safetensors"):
        stored.weights_path()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"\xff\xfe\x00", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"9" * 5000, "not valid JSON"),
        (b'{"format_version": 1, "metrics": NaN}', "NaN is not JSON"),
        (b'{"format_version": 1, "format_version": 1}', "twice"),
        (b"[1, 2]", "JSON object, got list"),
        (b"null", "JSON object, got NoneType"),
        (b'"text"', "JSON object, got str"),
        (b"{}", "no format_version"),
        (b'{"architecture": "resnet18"}', "looks like a timm model"),
        (b'{"model_type": "vit"}', "looks like a transformers model"),
        (b" " * (CONFIG_LIMIT + 1), "bytes"),
    ],
    ids=range(14),
)
def test_a_file_that_moezoo_did_not_write(saved, content, words):
    (saved / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=words):
        read_stored(f"local-dir:{saved}")


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(saved):
    before = read_stored(f"local-dir:{saved}")
    path = saved / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    after = read_stored(f"local-dir:{saved}")
    assert (after.config, after.label_names, after.data) == (before.config, before.label_names, before.data)


def test_a_newer_format_names_both_versions(saved):
    name = edit(saved, format_version=5, moezoo_version="7.8.9", something_new=1)
    with pytest.raises(ConfigError, match=rf"format_version 5.*7\.8\.9.*{moezoo.__version__}.*up to 4"):
        read_stored(name)


@pytest.mark.parametrize("version", [0, -1, True, "1", 1.0, [1]])
def test_a_format_version_is_a_whole_number(saved, version):
    with pytest.raises(ConfigError, match="format_version"):
        read_stored(edit(saved, format_version=version))


def test_unknown_keys_are_refused_with_the_nearest(saved):
    with pytest.raises(ConfigError, match=r"unknown key 'label_name'\. Did you mean: label_names"):
        read_stored(edit(saved, label_name=["a"]))
    config = json.loads((saved / "config.json").read_text())["config"]
    with pytest.raises(ConfigError, match=r"unknown field 'num_expert'\. Did you mean: num_experts"):
        read_stored(edit(saved, label_name=..., config={**config, "num_expert": 4}))
    with pytest.raises(ConfigError, match=r"unknown field 'input_sizes'"):
        read_stored(edit(saved, config=config, data={"input_sizes": [3, 1, 1]}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": 3}, "name must be a string"),
        ({"name": ...}, "name must be a string"),
        ({"config": [1]}, "config must be an object"),
        ({"config": ...}, "config must be an object"),
        ({"weights_sha256": ...}, "weights_sha256 must be a string"),
        ({"weights_sha256": "../../etc"}, "64 hexadecimal digits"),
        ({"label_names": "abc"}, "label_names must be a list"),
        ({"label_names": [1] * 10}, "label_names must be a list"),
        ({"label_names": ["a", "b"]}, "label_names has 2 names, num_classes is 10"),
        ({"metrics": [1]}, "metrics must be an object"),
        ({"data": {"input_size": [3, 2]}}, "input_size"),
        ({"data": {"crop_pct": "1"}}, "crop_pct"),
    ],
)
def test_ill_typed_keys_are_named_together_with_the_place(saved, changes, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_stored(edit(saved, **changes))
    assert str(saved) in str(caught.value)


@pytest.mark.parametrize("name", ["", "os.system", "local-dir:/etc", "hf-hub:a/b", "no_family/x", "x" * 9999])
def test_a_hostile_name_is_an_unknown_model(saved, name):
    with pytest.raises(UnknownModelError, match=r"config\.json"):
        read_stored(edit(saved, name=name))


def test_a_hostile_architecture_is_an_unknown_model(saved):
    config = json.loads((saved / "config.json").read_text())["config"]
    name = edit(saved, config={**config, "model_name": "os.system"})
    with pytest.raises(UnknownModelError, match=r"os\.system"):
        moezoo.create_model(name, pretrained=True)


@pytest.mark.parametrize(
    "change",
    [
        {"num_experts": 10**9},
        {"expert_dim": 10**9},
        {"num_classes": -1},
        {"expert_k": True},
        {"expert": "os"},
    ],
)
def test_hostile_sizes_are_refused(saved, change):
    config = json.loads((saved / "config.json").read_text())["config"]
    name = edit(saved, config={**config, **change}, label_names=None)
    with pytest.raises(MoeZooError):
        moezoo.create_model(name, pretrained=True)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"depth": 10**9}, r"backbone_args\.depth=1000000000 is not allowed"),
        ({"depths": [2, 10**12]}, r"backbone_args\.depths\.1="),
        ({"embed_dim": -(10**9)}, "nothing larger than 1,000,000"),
        ({"depth": 50_000, "embed_dim": 900_000, "num_heads": 1}, "more than .* parameter tensors, unlike its files"),
    ],
)
def test_a_backbone_that_would_never_be_built_is_refused_at_once(tmp_path, args, words):
    slim = {"num_classes": 2, "img_size": 16, "expert_dim": 8, "mlp_ratio": 0.25, "num_experts": 2}
    model = moezoo.create_model("entity_moe/test_vit2", backbone_args={"patch_size": 8, "depth": 1}, **slim)
    moezoo.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())["config"]
    start = time.monotonic()
    with pytest.raises(ConfigError, match=words):
        moezoo.create_model(edit(tmp_path, config={**config, "backbone_args": args}), pretrained=True)
    assert time.monotonic() - start < 20


def test_a_size_within_bounds_that_the_file_does_not_have_is_refused_before_allocation(saved):
    config = json.loads((saved / "config.json").read_text())["config"]
    name = edit(saved, config={**config, "num_experts": 60_000, "expert_dim": 60_000})
    with pytest.raises(WeightsMismatch, match=r"w_in: file \(4, 128, 64\) vs model \(60000, 60000, 64\)"):
        moezoo.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", ["hf-hub:repo", "hf-hub:a/b/c", "hf-hub:", "hf-hub:a/b c", "http://a/b", "a/b"])
def test_a_stored_name_has_two_forms(name):
    with pytest.raises(ConfigError, match="hf-hub:user/repo"):
        read_stored(name)


def test_mappings_with_whole_number_keys_survive_json(tmp_path):
    model = moezoo.create_model("entity_moe/digits", num_experts={2: 2, 3: 4})
    moezoo.save_pretrained(model, tmp_path)
    assert read_stored(f"local-dir:{tmp_path}").config == model.moezoo_config
