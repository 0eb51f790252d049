"""The benchmark of the re-identification metrics: its baseline measures the same, its table says what was measured."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_the_baseline_gives_the_same_figures_and_the_table_compares_them(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import reid_memory
    from card_tables.memory import reid_memory_table

    rows = [{"case": name, **reid_memory.measure(scale=0.002, **case)} for name, case in reid_memory.CASES.items()]
    _, most, ours, sorting, reranked = rows
    assert sorting["mAP"] == pytest.approx(ours["mAP"], abs=1e-6)
    assert most["mAP"] > 0.9
    assert (reranked["queries"], reranked["gallery"]) == (6, 24)
    ours["cpu_seconds"], sorting["cpu_seconds"] = 1.0, 4.0
    text = reid_memory_table({"rows": rows})
    assert "| features that find most | 40 x 200 |" in text
    assert text.endswith("Against sorting every row whole: 0.25 x the CPU time.")
