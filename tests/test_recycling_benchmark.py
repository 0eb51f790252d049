"""The benchmark of what experts start from: every way is trained and tested, and the table says how."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_every_way_is_measured_at_the_same_cost(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import recycling
    from card_tables.recycling import recycling_table

    recycling.main(seeds=1, epochs=1, tuning=1, lr=1e-3, out=tmp_path)
    data = json.loads((tmp_path / "recycling.json").read_text(encoding="utf-8"))
    ways = data["ways"]
    assert list(ways) == list(recycling.WAYS)
    equal = [row for way, row in ways.items() if way not in ("copies", "dense")]
    assert len({(row["mflops"], row["parameters"]) for row in equal}) == 1
    assert ways["copies"]["parameters"] > equal[0]["parameters"]
    assert "537 images in 1 epochs" in recycling_table(data)
