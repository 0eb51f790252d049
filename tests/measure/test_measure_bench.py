"""The benchmark: its rows, its comparisons, its survival of a failing model, and its files."""

from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
import timm
import torch
from torch import nn

import moezoo
from moezoo.errors import ConfigError, OutputError, UnknownModelError
from moezoo.measure import bench_case, flops, parameters
from moezoo.measure.bench import expand_names, run_bench
from moezoo.measure.bench_row import to_csv, to_json, to_markdown, write_rows
from moezoo.measure.machine import machine

DIGITS = "entity_moe/digits"


@pytest.fixture(scope="module")
def rows():
    return run_bench(DIGITS, batch_sizes=(1, 3), rounds=2, warmup=0, device="cpu", dtypes=("float32", "bfloat16"))


def test_one_row_per_role_type_and_batch_size(rows):
    expected = [
        (DIGITS, role, batch, dtype)
        for dtype in ("float32", "bfloat16")
        for batch in (1, 3)
        for role in ("model", "dense", "backbone")
    ]
    assert [(r.name, r.role, r.batch_size, r.dtype) for r in rows] == expected
    assert all(r.error is None for r in rows)


def test_rows_hold_what_the_single_measurements_say(rows):
    model = moezoo.create_model(DIGITS)
    images = torch.randn(3, *model.pretrained_cfg["input_size"])
    row = rows[3]
    counted = flops(model, images)
    assert row.input_size == tuple(images.shape[1:])
    assert (row.flops, row.flops_analytic) == (counted.executed, counted.analytic)
    assert row.flops == pytest.approx(3 * rows[0].flops)
    sizes = parameters(model)
    assert (row.params_total, row.params_active) == (sizes.total, sizes.active)
    assert row.peak_memory > 4 * sizes.total
    assert rows[9].peak_memory < 0.7 * row.peak_memory, "bfloat16"
    assert 0 < row.latency_p50 <= row.latency_p95
    assert row.throughput == pytest.approx(3000 / row.latency_p50)


def test_the_twin_and_the_backbone_are_those_of_the_model(rows):
    model, dense, backbone = rows[:3]
    twin = moezoo.create_model(DIGITS, dense=True)
    assert dense.params_total == dense.params_active == parameters(twin).total
    config = moezoo.model_config(DIGITS)
    from moezoo.backbones.timm_models import create_backbone

    assert backbone.params_total == parameters(create_backbone(config)).total
    assert backbone.flops < dense.flops
    assert model.flops_vs_dense == pytest.approx(model.flops / dense.flops)
    assert model.flops_vs_backbone == pytest.approx(model.flops / backbone.flops)


def test_latency_ratios_are_paired_and_never_with_itself(rows):
    model, dense, backbone = rows[:3]
    for row in (model, backbone):
        low, high = row.latency_vs_dense_quartiles
        assert low <= row.latency_vs_dense <= high
    assert model.latency_vs_backbone > 0
    assert dense.latency_vs_dense is None
    assert backbone.latency_vs_backbone is None


def test_rows_name_the_machine(rows):
    here = machine()
    assert (here.torch, here.threads) == (torch.__version__, torch.get_num_threads())
    assert here.processor
    assert here.cores >= 1
    for row in rows:
        assert (row.processor, row.cores, row.torch, row.device) == (
            here.processor,
            here.cores,
            here.torch,
            "cpu",
        )


def test_comparisons_can_be_left_out_and_a_twin_has_no_twin():
    args = {"rounds": 1, "warmup": 0, "device": "cpu"}
    assert [r.role for r in run_bench(DIGITS, compare=(), **args)] == ["model"]
    assert [r.role for r in run_bench(DIGITS, compare=("dense",), **args)] == ["model", "dense"]
    assert [r.role for r in run_bench(f"{DIGITS}.dense", **args)] == ["model", "backbone"]


def test_overrides_reach_every_model():
    few, many = (
        run_bench(DIGITS, compare=("dense",), overrides={"num_experts": n}, rounds=1, warmup=0, device="cpu")
        for n in (2, 6)
    )
    assert few[0].params_total < many[0].params_total
    assert few[1].params_total == many[1].params_total, "the twin depends on the active width only"


def test_the_seed_fixes_weights_and_images_and_leaves_the_global_generator_alone(monkeypatch):
    seen = []
    original = bench_case._costs

    def spy(model, images, row):
        seen.append((next(model.parameters()).clone(), images))
        return original(model, images, row)

    monkeypatch.setattr("moezoo.measure.bench_case._costs", spy)
    state = torch.get_rng_state()
    for seed in (1, 1, 2):
        run_bench(DIGITS, compare=(), rounds=1, warmup=0, device="cpu", seed=seed)
    assert torch.equal(torch.get_rng_state(), state)
    (w1, x1), (w2, x2), (w3, x3) = seen
    assert torch.equal(w1, w2)
    assert torch.equal(x1, x2)
    assert not torch.equal(w1, w3)
    assert not torch.equal(x1, x3)


def test_rounds_and_warmup_are_the_numbers_of_forwards(monkeypatch):
    calls = []
    original = moezoo.create_model

    def create(name, **overrides):
        model = original(name, **overrides)
        model.register_forward_pre_hook(lambda *_: calls.append(model.training))
        return model

    monkeypatch.setattr("moezoo.factory.create_model", create)
    run_bench(DIGITS, compare=(), rounds=1, warmup=0, device="cpu")
    base = len(calls)
    calls.clear()
    run_bench(DIGITS, compare=(), rounds=5, warmup=2, device="cpu")
    assert len(calls) == base + 4 + 2
    assert not any(calls)


def test_a_model_that_cannot_be_built_becomes_a_row_and_the_others_go_on():
    rows = run_bench(["entity_moe/nope", DIGITS], compare=(), rounds=1, warmup=0, device="cpu")
    assert [(r.name, r.error is None) for r in rows] == [("entity_moe/nope", False), (DIGITS, True)]
    assert rows[0].error.startswith("UnknownModelError: ")
    assert rows[0].latency_p50 is None


class Picky(nn.Module):
    """Runs batches of one only."""

    pretrained_cfg = {"input_size": (3, 4, 4)}  # noqa: RUF012
    moezoo_config = None

    def forward(self, x):
        if len(x) > 1:
            raise RuntimeError("out of memory | at\nbatch 2")
        return x


def test_a_forward_that_fails_costs_its_own_row_only(monkeypatch):
    monkeypatch.setattr("moezoo.factory.create_model", lambda name, **_: Picky())
    rows = run_bench("picky/one", batch_sizes=(1, 2), rounds=1, warmup=0, device="cpu")
    assert [(r.batch_size, r.error) for r in rows] == [
        (1, None),
        (2, "RuntimeError: out of memory | at\nbatch 2"),
    ]
    line = to_markdown(rows).splitlines()[3]
    assert "error: RuntimeError: out of memory \\| at batch 2" in line
    assert line.replace("\\|", "").count("|") == 13, "as many cells as the header has"


def test_a_twin_that_fails_leaves_the_model_measured(monkeypatch):
    def broken(config):
        raise MemoryError("too big")

    monkeypatch.setattr("moezoo.factory.build", broken)
    monkeypatch.setattr("moezoo.factory.create_model", lambda name, **_: timm_with_config())
    rows = {r.role: r for r in run_bench("entity_moe/test_vit2", rounds=1, warmup=0, device="cpu")}
    assert rows["dense"].error == "MemoryError: too big"
    assert rows["model"].latency_p50 > 0
    assert rows["model"].latency_vs_dense is None
    assert rows["model"].latency_vs_backbone > 0


def timm_with_config():
    model = timm.create_model("test_vit2")
    model.moezoo_config = moezoo.model_config("entity_moe/test_vit2")
    return model


def test_names_and_patterns_are_expanded_once_in_order():
    assert expand_names(DIGITS) == [DIGITS]
    assert expand_names(["entity_moe/test_vit2", "local-dir:runs/[a]*"]) == [
        "entity_moe/test_vit2",
        "local-dir:runs/[a]*",
    ]
    found = expand_names([DIGITS, "entity_moe/dig*", "entity_moe_digits*"])
    assert found[0] == DIGITS
    assert set(moezoo.list_models("entity_moe/dig*")) <= set(found)
    assert len(found) == len(set(found))
    with pytest.raises(UnknownModelError, match="no registered model matches"):
        expand_names("entity_moe/zzz*")
    with pytest.raises(ConfigError, match="empty"):
        expand_names([])


@pytest.mark.parametrize(
    "args",
    [
        {"batch_sizes": (0,)},
        {"dtypes": ("float23",)},
        {"rounds": 0},
        {"warmup": -1},
        {"compare": ("twin",)},
        {"device": "cpuu"},
        {"device": "meta"},
        {"device": "cuda:99"},
    ],
)
def test_bad_arguments_are_refused_before_anything_is_built(args, monkeypatch):
    monkeypatch.setattr("moezoo.factory.create_model", lambda *_, **__: pytest.fail("something was built"))
    with pytest.raises(ConfigError, match=next(iter(args))):
        run_bench(DIGITS, **args)


def test_progress_counts_every_measurement():
    seen = []
    run_bench(
        DIGITS,
        batch_sizes=(1, 2),
        compare=(),
        rounds=1,
        warmup=0,
        device="cpu",
        progress=lambda done, total, what: seen.append((done, total)),
    )
    assert seen == [(0, 2), (0, 2), (1, 2), (2, 2)]


def test_json_and_csv_hold_every_field(rows):
    data = json.loads(to_json(rows))
    assert data[0]["flops"] == rows[0].flops
    assert data[0]["input_size"] == list(rows[0].input_size)
    lines = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert len(data) == len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        assert set(line) == {f.name for f in dataclasses.fields(row)} == set(data[0])
        assert float(line["latency_p50"]) == row.latency_p50
        assert line["input_size"] == "x".join(map(str, row.input_size))
    assert lines[1]["latency_vs_dense"] == ""


def test_markdown_names_figures_machine_and_command(rows):
    text = to_markdown(rows, command="moezoo bench x")
    lines = text.splitlines()
    assert all(line.count("|") == 13 for line in lines[: len(rows) + 2])
    assert f"{rows[0].latency_p50:.2f}" in lines[2]
    assert f"{rows[0].flops / 1e9:.3f}" in lines[2]
    assert rows[0].processor in text
    assert f"torch {torch.__version__}" in text
    assert "`moezoo bench x`" in text
    per_image = {line.split("|")[5].strip() for line in lines[2:] if "| model |" in line}
    assert len(per_image) == 1, "FLOPs per image do not depend on the batch size"


def test_files_are_written_by_their_ending(rows, tmp_path):
    for name, text in (("a.md", to_markdown(rows)), ("a.csv", to_csv(rows)), ("a.json", to_json(rows))):
        write_rows(rows, tmp_path / name)
        assert (tmp_path / name).read_text() == text
    for bad in (tmp_path / "a.cvs", tmp_path / "none" / "a.md"):
        with pytest.raises(OutputError):
            write_rows(rows, bad)
    (tmp_path / "folder.md").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        write_rows(rows, tmp_path / "folder.md")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda_the_gpu_is_named():
    (row,) = run_bench(DIGITS, compare=(), rounds=1, warmup=0)
    assert row.error is None
    assert row.processor == torch.cuda.get_device_name()
