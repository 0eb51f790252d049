"""The scripts that measure Diff-MoE: the rivals compute what the model computes, and figures become tables rightly."""

import copy
import json
from pathlib import Path

import pytest
import torch
from scipy.stats import ttest_rel
from torch import nn

import moezoo
from moezoo.moe import MoELayer

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.mark.parametrize("way", ["mask loop", "all experts"])
def test_a_rival_gives_our_outputs_and_gradients_and_leaves_our_model_alone(way):
    from diff_moe_layers import WAYS, computed_by, moe_layers

    torch.manual_seed(0)
    kept = {"num_experts": 4, "top_k": 2, "router": "attentive", "hidden_dim": 24}
    ours = nn.Sequential(nn.Linear(8, 16), MoELayer(16, **kept), nn.Linear(16, 16), MoELayer(16, **kept))
    theirs = computed_by(WAYS[way], ours)
    assert len(moe_layers(ours)) == len(moe_layers(theirs)) == 2
    assert sum(p.numel() for p in theirs.parameters()) == sum(p.numel() for p in ours.parameters())
    x = torch.randn(5, 7, 8)
    got, wanted = theirs(x), ours(x)
    torch.testing.assert_close(got, wanted)
    (got.square().sum() + moezoo_aux(theirs)).backward()
    (wanted.square().sum() + moezoo_aux(ours)).backward()
    torch.testing.assert_close(theirs[0].weight.grad, ours[0].weight.grad)
    torch.testing.assert_close(theirs[3].router.keys.grad, ours[3].router.keys.grad)
    for e, member in enumerate(theirs[1].members):
        torch.testing.assert_close(member.fc1.weight.grad, ours[1].experts.w_in.grad[e])


def moezoo_aux(model):
    loss = moezoo.aux_loss(model)
    assert loss > 0
    return loss


def run(accuracy, entropy=0.9, dead=0, **more):
    figures = {"accuracy": accuracy, "zero_shot": accuracy - 0.1, "label_text_upper_bound": 1.0}
    figures |= {
        "image_to_text_r1": None,
        "text_to_image_r1": None,
        "exact_match": None,
        "load_entropy": entropy,
        "dead_experts": dead,
    }
    figures |= {"experts": 52, "parameters": 1000, "active": 500, "mflops": 12.34, "test_images": 360, "recipe": ""}
    return {**figures, "best_epoch": 3, "seconds": 1.5, **more}


def test_variants_are_compared_by_a_paired_test_over_the_seeds():
    import cards
    from diff_moe import compared

    accuracies = {"MoE": [0.97, 0.98, 0.96], "dense twin": [0.95, 0.97, 0.95], "no text": [0.96, 0.97, 0.95]}
    found = {name: [run(each) for each in values] for name, values in accuracies.items()}
    for each in found["dense twin"]:
        each |= {"load_entropy": None, "experts": 0}
    for i, each in enumerate(found["no text"]):
        each |= {"zero_shot": None, "dead_experts": i}
    data = {"data": "digits", "seeds": [0, 1, 2], **compared(found)}
    p = ttest_rel(accuracies["dense twin"], accuracies["MoE"]).pvalue
    assert data["tested"] == "accuracy"
    assert data["variants"]["dense twin"]["p_value"] == pytest.approx(p)
    assert data["variants"]["no text"]["p_value"] is None  # always one hundredth less: no spread, no test
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    head, _, accuracy, zero_shot, bound, tested, entropy, dead, *_ = cards.variants_table(data).splitlines()
    assert head == "| digits, 360 test images, 3 seeds | MoE | dense twin | no text |"
    assert accuracy == "| accuracy, image only | 97.00% ± 1.00% | 95.67% ± 1.15% | 96.00% ± 1.00% |"
    assert zero_shot.endswith("| - |")
    assert "100.00% ± 0.00%" in bound
    assert tested == f"| p against MoE: accuracy, image only | - | {p:.3f} | - |"
    assert entropy == "| load entropy of the experts (1 is even) | 0.900 | - | 0.900 |"
    assert dead == "| dead experts, all seeds | 0 of 156 | - | 3 of 156 |"


def test_a_run_that_was_done_is_read_and_not_made_again(tmp_path):
    from diff_moe import one, read, recipe_of
    from recorded_runs import in_full

    assert read(tmp_path, "digits", "dense twin", 0, ()) is None
    recipe = in_full(recipe_of("digits", "dense twin", 0, ()))
    assert "dense: true" in recipe
    assert recipe != in_full(recipe_of("digits", "dense twin", 1, ()))
    (tmp_path / "digits-dense_twin-0.json").write_text(json.dumps(run(0.9, recipe=recipe)))
    assert read(tmp_path, "digits", "dense twin", 0, ())["accuracy"] == 0.9
    assert one("digits", "dense twin", 0, (), tmp_path) == "digits-dense_twin-0: was done"
    with pytest.raises(SystemExit, match="remove it, or take another --folder"):
        read(tmp_path, "digits", "dense twin", 0, ("training.epochs=1",))
    (tmp_path / "digits-MoE-0.json").write_text(json.dumps(run(0.9, recipe=recipe)))
    with pytest.raises(SystemExit, match="by another recipe"):  # the variant, a preset or a recipe has changed since
        read(tmp_path, "digits", "MoE", 0, ())


def test_steps_memory_and_leakage_have_their_tables():
    import cards

    row = {"ms": 1234.5, "quartiles": [1200.0, 1300.0], "over_ours": 1.0, "interval": [1.0, 1.0]}
    slow = {**row, "over_ours": 1.75, "interval": [1.7, 1.8]}
    ways = {"moezoo": row, "all experts": slow}
    data = {"model": "diff_moe/cifar10", "batch": 64, "rounds": 10, "step": ways, "mixtures": ways}
    head, _, _, other = cards.step_table(data).splitlines()
    assert head.startswith("| `diff_moe/cifar10`, 64 images, 10 rounds | a step, ms (quartiles) | over moezoo |")
    assert other.count("1.75 x (1.70 to 1.80)") == 2
    rows = [
        {"case": "a", "parameters": 2e6, "saved_mib": 30.0, "peak_gib": 1.0},
        {"case": "b", "parameters": 2e6, "saved_mib": 100.0, "peak_gib": 2.0},
        {"case": "c", "failed": "failed (137)"},
    ]
    table = cards.saved_table({"title": "a step", "rows": rows})
    assert "| b | 2.0 M | 100 MiB | 2.0 GiB |" in table
    assert "| c |  |  | failed (137) |" in table
    assert table.endswith("0.30 x the bytes.")
    table = cards.saved_table({"title": "a step", "rows": [rows[0], rows[2], rows[1]]})
    assert "x the bytes" not in table  # what is not recomputed was not measured, and the third is of another model
    rows = [{"images": "2000 images of noise", "image_only": 0.1, "zero_shot": 0.099, "label_text_upper_bound": 1.0}]
    table = cards.leakage_table({"model": "diff_moe/digits", "chance": 0.1, "rows": rows})
    assert table.splitlines()[-1] == "| 2000 images of noise | 10.00% | 9.90% | 100.00% |"


def test_sizes_stand_beside_the_dense_twins_and_every_field_of_the_card_is_one_of_the_family():
    import cards
    import sizes

    row = sizes.measure("diff_moe/digits")
    config = moezoo.model_config("diff_moe/digits")
    assert row["layers"] == config.img_encoder_layers + config.text_encoder_layers + config.fusion_layers
    assert row["twin_parameters"] < row["active"] < row["parameters"]
    assert 0.9 < row["twin_flops"] / row["flops"] < 1.1
    assert row["text_flops"] > row["flops"]
    head, _, line = cards.sizes_table({"rows": [row]}).splitlines()
    assert head.startswith("| model | MoE layers | parameters | active per token | twin | FLOPs per image | twin |")
    assert f"| {row['flops'] / 1e6:.1f} M | {row['twin_flops'] / 1e6:.1f} M |" in line
    assert "| `top_k` | 2 | general experts that a token uses |" in cards.config_table("diff_moe")


def test_a_step_of_the_model_is_checked_and_timed_by_all_three_ways():
    import io

    from diff_moe_step import Step, build, check_equal, memory_of, timings
    from rich.console import Console

    name, small = "diff_moe/digits", {"embed_dim": 16, "num_heads": 2, "img_encoder_layers": 1, "patch_size": 8}
    model, step = build(name, 0, small), Step.of(name, 4, 0, small)
    found = timings(model, step, 2, 0, Console(file=io.StringIO()))
    for part in ("step", "mixtures"):
        assert list(found[part]) == ["moezoo", "mask loop", "all experts"]
        assert found[part]["moezoo"]["over_ours"] == 1
        assert all(len(way["samples"]) == 2 and min(way["samples"]) > 0 for way in found[part].values())
    tiny = build(name, 0, {**small, "initializer_range": 1e-4})  # its gradients are tiny, and compared all the same
    slightly = copy.deepcopy(tiny)
    slightly.patch_embed.proj.register_full_backward_hook(lambda module, into, out: tuple(0.99 * g for g in into))
    with pytest.raises(AssertionError, match="slightly"):
        check_equal({"moezoo": tiny, "slightly": slightly}, step)
    other = build(name, 1, small)
    with pytest.raises(AssertionError, match="other"):
        check_equal({"moezoo": model, "other": other}, step)
    kept, recomputed = (memory_of(name, 4, 0, {**small, "use_gradient_checkpointing": on}) for on in (False, True))
    assert recomputed["saved_mib"] <= 0.4 * kept["saved_mib"]
    assert kept["peak_gib"] > 0
