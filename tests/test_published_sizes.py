"""What papers say of their models' sizes is what the presets have."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NEAR = 0.005


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import published_sizes

        yield published_sizes


@pytest.fixture(scope="module")
def stored():
    return json.loads((ROOT / "benchmarks" / "results" / "published_sizes.json").read_text(encoding="utf-8"))["rows"]


def test_every_figure_is_within_half_a_percent_or_explained(script, stored):
    assert [(row["paper"], row["model"]) for row in stored] == [(row.paper, row.name) for row in script.ROWS]
    for row in stored:
        pairs = [(row[key], row[f"published_{key}"]) for key in ("parameters", "active", "flops")]
        pairs += [(row["share"], row["published_share"])] if "share" in row else []
        far = [pair for pair in pairs if pair[1] is not None and abs(pair[0] / pair[1] - 1) > NEAR]
        assert not far or row["note"], row["paper"]
        assert all(pair[1] is None or abs(pair[0] / pair[1] - 1) < 0.05 for pair in pairs), row["paper"]
        assert row["source"]


FEW = ["ViT-S/32", "V-MoE-S/32, Last-2", "V-MoE-S/32, Every-2", "Soft MoE S/16 128E", "Mobile V-MoE, 54 M FLOPs"]


@pytest.mark.parametrize("paper", FEW)
def test_the_stored_figures_are_those_of_the_models(script, stored, paper):
    row = next(row for row in script.ROWS if row.paper == paper)
    found = json.loads(json.dumps(script.measure(row)))
    assert found == next(row for row in stored if row["paper"] == paper)


@pytest.mark.slow
def test_all_stored_figures_are_those_of_the_models(script, stored):
    assert json.loads(json.dumps([script.measure(row) for row in script.ROWS])) == stored
