"""The tables in the documents are what the script writes from the stored results, so the two cannot drift apart."""

import json
import re
from pathlib import Path

import pytest
import torch

import moezoo

ROOT = Path(__file__).parent.parent
PACKAGED = Path(moezoo.__file__).parent / "weights" / "entity_moe-test_vit"


@pytest.fixture
def cards(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import cards

    return cards


def test_every_table_in_the_documents_is_what_its_result_says(cards):
    for name in cards.DOCUMENTS:
        text = (ROOT / name).read_text(encoding="utf-8")
        assert cards.fill(text, where=name) == text, f"{name}: run python benchmarks/cards.py"
    found = set(cards.BEGIN.findall((ROOT / "MODEL_CARDS.md").read_text(encoding="utf-8")))
    for family in moezoo.models.FAMILIES:
        assert {f"config_{family}", f"sizes_{family}"} <= found
    stored = {path.stem for path in cards.RESULTS.glob("*.json")}
    assert {name for name in found if not name.startswith("config_")} == stored, "a result that no card shows"


def test_a_changed_figure_or_a_changed_document_is_noticed(cards, monkeypatch, tmp_path):
    data = json.loads((cards.RESULTS / "digits.json").read_text())
    data["models"]["MoE"]["parameters"] += 1
    (tmp_path / "digits.json").write_text(json.dumps(data))
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    before = "words\n<!-- table: digits -->\nold\n<!-- /table -->\nmore"
    text = cards.fill(before, where="x.md")
    assert "| parameters | 395,437 | 295,210 |" in text
    assert text.startswith(
        "words\n<!-- table: digits -->\n| digits, 360 test images, 3 seeds | MoE | dense twin |\n|---|---|---|\n"
    )
    found = data["models"]["MoE"]["test_accuracy"]
    assert f"{sum(found) / len(found):.2%} ({min(found):.2%} to {max(found):.2%})" in text
    assert text.endswith(".\n<!-- /table -->\nmore")
    assert cards.fill(text, where="x.md") == text
    with pytest.raises(ValueError, match=r"x\.md: the table 'digits' has no end"):
        cards.fill(before.replace("<!-- /table -->", ""), where="x.md")


def test_the_stored_sizes_are_those_of_the_registered_models(monkeypatch, cards):
    import sizes

    names = {
        family: [name for name in sizes.defaults() if name.startswith(f"{family}/")]
        for family in moezoo.models.FAMILIES
    }
    for family, models in names.items():
        rows = json.loads((cards.RESULTS / f"sizes_{family}.json").read_text())["rows"]
        assert [row["model"] for row in rows] == models, "run python benchmarks/sizes.py"
        small = min(rows, key=lambda row: row["flops"])
        assert sizes.measure(small["model"]) == small


def test_a_result_is_stored_with_its_machine_and_read_back(cards, tmp_path, monkeypatch):
    rows = [{"case": "one", "parameters": 1e6, "peak_gib": 1.0}, {"case": "two", "failed": "failed (137)"}]
    cards.store("memory", "memory", folder=tmp_path, command="python x.py", title="a step", rows=rows)
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    head, rule, one, two, _, source = cards.table("memory").splitlines()
    assert (head, rule) == ("| a step | parameters | peak memory |", "|---|---:|---:|")
    assert (one, two) == ("| one | 1.0 M | 1.0 GiB |", "| two |  | failed (137) |")
    assert source.startswith("`python x.py`; ")
    assert source.endswith(f"torch {torch.__version__.partition('+')[0]}.")


def test_what_the_cards_say_of_the_packaged_weights_is_true(cards):
    text = (ROOT / "MODEL_CARDS.md").read_text(encoding="utf-8")
    digest = json.loads((PACKAGED / "config.json").read_text())["weights_sha256"]
    assert f"`{digest}`" in text
    assert f"({(PACKAGED / 'model.safetensors').stat().st_size:,} bytes, float16" in text
    data = json.loads((cards.RESULTS / "test_vit.json").read_text())
    assert cards.seeds_table(data) in (PACKAGED / "README.md").read_text(encoding="utf-8")


def test_every_reference_is_whole_and_has_its_own_name():
    text = (ROOT / "MODEL_CARDS.md").read_text(encoding="utf-8")
    entries = re.findall(r"^@(\w+)\{(\w+),\n(.*?)^\}$", text, re.MULTILINE | re.DOTALL)
    names = [name for _, name, _ in entries]
    assert len(names) == len(set(names)) == len(re.findall(r"^@", text, re.MULTILINE))
    for kind, name, body in entries:
        fields = set(re.findall(r"^  (\w+) *= ", body, re.MULTILINE))
        assert {"title", "author", "year"} <= fields, name
        assert {"inproceedings": "booktitle", "article": "journal", "misc": "howpublished"}[kind] in fields, name
        assert body.count("{") == body.count("}"), name
