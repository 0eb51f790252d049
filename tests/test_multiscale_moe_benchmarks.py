"""The scripts that measure the multi-scale MoE: runs are compared rightly, and tables say who wins."""

import json
from pathlib import Path

import pytest
from scipy.stats import spearmanr, ttest_rel

ROOT = Path(__file__).parent.parent
TINY = (
    "training.epochs=1",
    "training.batch_size=8",
    "training.instances=2",
    "training.num_workers=0",
    "training.device=cpu",
    "data.train_identities=4",
    "data.val_identities=2",
    "data.test_identities=2",
    "data.cameras=2",
)


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def run(found, **more):
    figures = {"mAP": found, "r1": found - 0.1, "val_mAP": found + 0.1, "best_epoch": 3, "parameters": 1000}
    return {**figures, "mflops": 1.5, "identities": 48, "queries": 192, "seconds": 1.5, "recipe": "", **more}


def test_fusions_are_compared_by_a_paired_test_and_the_table_says_who_finds_more():
    from card_tables.reid import fusions_table
    from multiscale_moe import compared

    scores = {
        "MoE": [0.40, 0.42, 0.41],
        "mean": [0.30, 0.33, 0.30],
        "concat": [0.41, 0.40, 0.42],
        "MLP": [0.50, 0.53, 0.50],
    }
    data = {"data": "figures", "seeds": [0, 1, 2], "test": "paired"}
    data["variants"] = compared({name: [run(each) for each in values] for name, values in scores.items()})
    p = ttest_rel(scores["mean"], scores["MoE"]).pvalue
    assert data["variants"]["mean"]["p_value"] == pytest.approx(p)
    assert data["variants"]["mean"]["over"] == pytest.approx([-0.10, -0.09, -0.11])
    times = {"MoE": {"ratio": 1.2, "low": 1.1, "high": 1.3}}
    data["times"] = {"baseline": "the twin", "ratios": {"forward": times}}
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    text = fusions_table(data)
    assert text.startswith("| figures, 48 test identities, 192 queries, 3 seeds | MoE | mean | concat | MLP |")
    assert "| mAP, test identities | 41.00% ± 1.00% | 31.00% ± 1.73% |" in text
    assert "| mAP over that of MoE | - | -10.00 ± 1.00 points |" in text
    assert "| time over that of the twin, forward | 1.20 x (1.10 to 1.30) | - | - | - |" in text
    assert text.endswith(
        "In words, at p < 0.05: MoE finds more than mean, less than MLP, and cannot be told apart from concat."
    )


def test_a_fusion_that_beats_nobody_is_called_so():
    from card_tables.reid import fusions_table
    from multiscale_moe import compared

    found = {"MoE": [run(0.4), run(0.42), run(0.41)], "mean": [run(0.41), run(0.4), run(0.42)]}
    data = {"data": "figures", "seeds": [0, 1, 2], "test": "paired", "variants": compared(found)}
    assert fusions_table(data).endswith("MoE finds more than none of them, and cannot be told apart from mean.")


def test_weights_are_correlated_with_what_was_planted_over_conditions_and_seeds():
    from card_tables.reid import gate_table
    from multiscale_moe_gate import MODALITIES, SCALES, SMALLEST, SPECTRA, condition, correlation

    def weights(*each, smallest=0.5):
        return {"mAP": 0.5, "weights": {**dict(zip(MODALITIES, each, strict=True)), SMALLEST: smallest}}

    one = condition(SPECTRA["RGB and NIR"], MODALITIES, [weights(0.7, 0.2, 0.1), weights(0.3, 0.5, 0.2)])
    two = condition(SPECTRA["NIR and TIR"], MODALITIES, [weights(0.1, 0.3, 0.6), weights(0.4, 0.3, 0.3)])
    assert one["planted"] == {"RGB": 0.5, "NIR": 0.5, "TIR": 0}
    found = correlation([one, two])
    planted = [1, 1, 0, 0, 1, 1]
    first, second = [0.7, 0.2, 0.1, 0.1, 0.3, 0.6], [0.3, 0.5, 0.2, 0.4, 0.3, 0.3]
    assert found["points"] == 12
    assert found["rho"] == pytest.approx(spearmanr(planted * 2, first + second).statistic)
    assert found["by_seed"] == pytest.approx([spearmanr(planted, each).statistic for each in (first, second)])
    assert found["rho"] < found["most"] < 1
    smallest = dict(zip(SCALES, (0.0, 0.3, 0.6), strict=True))
    runs = {name: [weights(1, 0, 0, smallest=0.1 * i + smallest[name]) for i in range(2)] for name in SCALES}
    scales = [{"cues": name, **condition(SCALES[name], (SMALLEST,), runs[name])} for name in SCALES]
    assert [each["planted"][SMALLEST] for each in scales] == [0, 0.5, 1]
    data = {"spectra": [one, two], "spectra_correlation": found}
    data |= {"scales": scales, "scales_correlation": correlation(scales), "seeds": [0, 1], "scales_model": "one"}
    text = gate_table(data)
    assert "| RGB and NIR | **0.50 ± 0.28** | **0.35 ± 0.21** | 0.15 ± 0.07 | 50.00% ± 0.00% |" in text
    assert f"with its cues: {found['rho']:.2f} over 12 points, {found['most']:.2f} at most" in text
    assert "0.05 ± 0.07 with coarse cues (mAP 50.00% ± 0.00%), 0.35 ± 0.07 with coarse and fine cues" in text
    assert text.endswith("0.96 over 6 points, 0.96 at most (1.00, 1.00 by seed).")


@pytest.mark.slow
def test_a_run_is_made_once_and_refused_with_another_recipe(tmp_path):
    import multiscale_moe
    import multiscale_moe_gate

    assert "mAP" in multiscale_moe.one("mean", 0, TINY, tmp_path)
    assert multiscale_moe.one("mean", 0, TINY, tmp_path).endswith("was done")
    figures = multiscale_moe.read("mean", 0, TINY, tmp_path)
    assert 0 <= figures["r1"] <= 1
    assert (figures["identities"], figures["queries"]) == (2, 4)
    with pytest.raises(SystemExit, match="another recipe"):
        multiscale_moe.one("mean", 0, (*TINY, "training.lr=1e-4"), tmp_path)
    for name in ("RGB and NIR", "fine"):
        multiscale_moe_gate.one(name, 0, TINY, tmp_path)
    assert 0 < multiscale_moe_gate.read("fine", 0, TINY, tmp_path)["weights"][multiscale_moe_gate.SMALLEST] < 1
    weights = multiscale_moe_gate.read("RGB and NIR", 0, TINY, tmp_path)["weights"]
    assert sum(weights[m] for m in multiscale_moe_gate.MODALITIES) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
def test_windows_that_see_the_planted_cues_get_the_weight_in_a_trained_model(tmp_path):
    import multiscale_moe_gate

    few = ("data.test_identities=4",)
    for name in ("coarse", "fine"):
        multiscale_moe_gate.one(name, 7, few, tmp_path)
    coarse, fine = (multiscale_moe_gate.read(name, 7, few, tmp_path) for name in ("coarse", "fine"))
    assert coarse["weights"][multiscale_moe_gate.SMALLEST] < 0.2
    assert fine["weights"][multiscale_moe_gate.SMALLEST] > 0.5
