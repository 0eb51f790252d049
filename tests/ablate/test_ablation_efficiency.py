"""What an ablation measures of its models beside what they learnt."""

import csv
import dataclasses
import io
import json

import pytest
import torch
from rich.console import Console
from torch_threads import one_thread  # noqa: F401

from moezoo.ablate import ablate, resolve_plan
from moezoo.ablate.cells import settings_of
from moezoo.ablate.efficiency import efficiencies
from moezoo.ablate.factors import choose
from moezoo.ablate.result import Ablation
from moezoo.ablate.tables import cost_tables
from moezoo.data import ImageTensors, Splits
from moezoo.errors import ConfigError
from moezoo.measure import memory, parameters
from moezoo.recipes import find_ablation
from moezoo.registry import build, model_config

TINY = (
    "model.img_size=[32,16]",
    "model.backbone_args={depth: 1}",
    "model.scales=[1,2]",
    "model.feat_dim=8",
    "model.hidden_dim=8",
    "data.train_identities=4",
    "data.val_identities=2",
    "data.test_identities=2",
    "data.images_per_camera=2",
    "training.epochs=1",
    "training.batch_size=8",
    "training.instances=4",
    "training.warmup_epochs=0",
    "training.device=cpu",
)


def test_rows_have_cost_and_use_of_the_gates_where_asked(tmp_path, monkeypatch):
    vary = ("scales=[1,2,4]", "variant=mean")
    plan = resolve_plan("multiscale_moe/synthetic", vary=vary, assignments=TINY)
    plain = ablate(plan, tmp_path)
    assert [(row.factor, row.is_base) for row in plain.rows] == [
        ("base", True),
        ("scales", True),
        ("scales", False),
        ("variant", True),
        ("variant", False),
    ]
    assert all(row.efficiency is None for row in plain.rows)
    assert cost_tables(plain) == []
    assert plain.base_values() == {"scales": "1x2", "variant": "base"}
    # The same folder, measured: nothing is trained again.
    monkeypatch.setattr("moezoo.ablate.run.train_recipe", None)
    plan = resolve_plan("multiscale_moe/synthetic", vary=vary, assignments=TINY, measure=True)
    found = ablate(plan, tmp_path)
    cost = {(row.factor, row.value if isinstance(row.value, str) else len(row.value)): row for row in found.rows}
    base, more, mean = (cost[key].efficiency for key in (("base", ""), ("scales", 3), ("variant", "mean")))
    assert cost["scales", 2].efficiency is base
    assert base.parameters < more.parameters
    assert base.eval_memory > 4 * base.parameters
    assert base.train_memory > 4 * 4 * base.parameters
    assert base.time_vs_base == 1.0
    assert mean.time_vs_base > 0
    # Balance, activation rate and stability are of models with a gate.
    assert 0 <= found.rows[0].mean("balance") <= found.rows[0].mean("stability")
    assert found.rows[0].mean("activation_rate") == 1.0
    assert cost["variant", "mean"].mean("balance") is None
    reversed_rows = Ablation(plan, found.rows[::-1]).columns()  # as if the base were the one without a gate
    assert reversed_rows[-1]["balance"] == found.rows[0].mean("balance")
    rows = list(csv.DictReader((tmp_path / "ablation.csv").open()))
    assert int(rows[0]["parameters"]) == base.parameters
    assert float(rows[0]["val_mAP"]) == found.rows[0].mean("val")
    assert rows[-1]["balance"] == ""
    assert json.loads((tmp_path / "ablation.json").read_text())["rows"][2]["eval_memory"] == more.eval_memory
    text = io.StringIO()
    costs, gates = cost_tables(found)
    Console(file=text, width=80).print(costs, gates)
    assert text.getvalue().count("scales 1x2x4") == 2
    assert "balance" in text.getvalue()
    assert "…" not in text.getvalue()


def test_cost_is_that_of_a_batch_of_test_images():
    images = torch.randn(12, 1, 4, 4)
    part = ImageTensors(images, torch.arange(12) % 2)
    splits = Splits("toy", part, part, part, ("a", "b"), (0.5,), (0.5,))
    small = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 2))
    large = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 512), torch.nn.Linear(512, 2))
    large[1].weight.requires_grad_(False)
    found = efficiencies({"small": (small.eval(), splits), "large": (large.eval(), splits)}, "small")
    for name, model in (("small", small), ("large", large)):
        own, kept = found[name], memory(model, images[:8].clone())
        assert own.parameters == own.active_parameters == parameters(model).total
        learnt = 4 * parameters(model).trainable
        assert own.train_memory == 4 * own.parameters + 3 * learnt + kept.saved_for_backward
        assert own.eval_memory == kept.peak
        assert own.ms_per_image > 0
    assert not small.training


@pytest.mark.parametrize(
    "name", ["synthetic", *(pytest.param(each, marks=pytest.mark.slow) for each in ("rgbnt201", "market1501"))]
)
def test_the_document_s_ablations_fit_the_models(name):
    root = () if name == "synthetic" else ("data.root=nowhere",)
    plan = resolve_plan(f"multiscale_moe/{name}", assignments=root)
    factors = {factor.name: factor.values for factor in plan.factors}
    assert [len(scales) for scales in factors["scales"]] == [2, 3, 4, 5]
    assert factors["gate_layers"] == (1, 2, 3)
    assert factors["temperature"] == (0.5, 1.0, 2.0)
    assert all(0.0 in factors[f"{loss}_weight"] for loss in ("balance", "sparsity", "diversity"))
    assert {"mlp", "concat", "mean", "attention"} < set(factors["variant"])
    assert ("hierarchical" in factors["variant"]) == (name != "market1501")
    assert set(find_ablation("multiscale_moe")) == {"vary"}
    if name == "synthetic":  # of the others it takes as long as a ViT-B is large
        for setting in settings_of(dataclasses.replace(plan, factors=choose(plan.factors, ["scales"]))):
            recipe = setting.cells[0].recipe
            with torch.device("meta"):
                build(model_config(recipe.name, **recipe.model))
    with pytest.raises(ConfigError):
        resolve_plan(f"multiscale_moe/{name}", only=["experts"], assignments=root)
