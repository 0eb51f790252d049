"""Profiles: what is made slow shows where it is, figures add up, and the model is left as it was."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import moezoo
from moezoo.errors import ConfigError, OutputError
from moezoo.measure.profile import profile
from moezoo.measure.profile_inputs import random_input, some_loss
from moezoo.measure.profile_models import profile_models
from moezoo.measure.profile_summary import step_profile
from moezoo.measure.profile_table import profile_tables
from moezoo.measure.profile_trace import read_trace
from moezoo.moe import MoELayer

SLEEP = 0.06
SLOW, FAST = 1000 * SLEEP, 1000 * SLEEP / 2
"""Milliseconds: what sleeps takes at least the one, what does not less than the other, on a machine at work too."""


class Nap(torch.autograd.Function):
    """Sleeps in the forward, in the backward, or not at all."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_sleep = backward
        time.sleep(forward)
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        time.sleep(ctx.backward_sleep)
        return grad, None, None


class Bed(nn.Module):
    """A linear map that may sleep."""

    def __init__(self, dim):
        super().__init__()
        self.fc = nn.Linear(dim, dim)
        self.forward_sleep = self.backward_sleep = 0.0

    def forward(self, x):
        return Nap.apply(self.fc(x), self.forward_sleep, self.backward_sleep)


class Toy(nn.Module):
    """A part, an MoE layer of four experts, a list of parts, a head; with or without checkpointing."""

    def __init__(self, checkpointed=False):
        super().__init__()
        self.first = Bed(8)
        self.moe = MoELayer(8, num_experts=4, top_k=2, expert="modules", expert_args={"make": lambda _: Bed(8)})
        self.more = nn.ModuleList([Bed(8), Bed(8)])
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        self.checkpointed, self.scratch = checkpointed, 0

    def forward(self, x):
        x = self.first(x)
        x = checkpoint(self.moe, x, use_reentrant=False) if self.checkpointed else self.moe(x)
        if self.scratch:
            x = x + torch.ones(self.scratch // 4).mean()
        for each in self.more:
            x = each(x)
        return self.head(self.norm(x.mean(1)))


def run(model, folder, **options):
    if "input" not in options:
        options["input"] = [torch.randn(4, 16, 8)]
    return profile(model, folder, name="toy", **{"steps": 1, "warmup": 0, **options})


def of(spans, name):
    return next(span for span in spans if span.name == name)


def moe(step, what, during="forward"):
    return next((span for span in step.moe if (span.what, span.during) == (what, during)), None)


def test_every_figure_is_of_the_trace_and_they_add_up(tmp_path):
    result = run(Toy(), tmp_path, steps=2)
    assert [span.name for span in result.inference.phases] == ["forward"]
    assert [span.name for span in result.training.phases] == ["forward", "loss", "backward", "optimizer"]
    for step in (result.inference, result.training):
        assert step.steps == 2
        names = [span.name for span in step.parts]
        assert names == ["first", "moe", "more", "norm", "head", "(between parts)"]
        assert sum(span.ms for span in step.parts) == pytest.approx(of(step.phases, "forward").ms)
        assert [of(step.parts, name).calls for name in ("first", "more")] == [1, 2]
        assert {span.what for span in step.moe} == {"router", "dispatch", "experts", "combine"}
        assert sum(span.ms for span in step.moe) <= of(step.parts, "moe").ms
        assert sum(span.ms for span in step.phases) <= step.ms
        steps = read_trace(step.trace).named("step")
        assert step.ms == pytest.approx(sum(each.ms for each in steps) / 2)
    assert [(span.layer, span.expert) for span in result.experts] == [("moe", e) for e in range(4)]
    assert sum(span.rows for span in result.experts) == 4 * 16 * 2
    assert json.loads((tmp_path / "profile.json").read_text()) == json.loads(json.dumps(result.to_dict()))
    assert {path.name for path in tmp_path.iterdir()} >= {f"{m}.trace.json.gz" for m in ("inference", "training")}


def test_a_sleep_shows_in_its_phase_and_its_part_and_nowhere_else(tmp_path):
    model = Toy()
    model.more[1].forward_sleep = SLEEP
    model.first.backward_sleep = SLEEP
    result = run(model, tmp_path)
    training = result.training
    assert of(result.inference.parts, "more").ms >= SLOW
    assert of(training.phases, "forward").ms >= SLOW
    assert of(training.phases, "backward").ms >= SLOW
    assert of(training.phases, "loss").ms < FAST
    assert all(span.ms < FAST for span in training.parts if span.name != "more")


def test_a_sleeping_router_and_a_sleeping_expert_are_found(tmp_path):
    model = Toy()
    model.moe.router.register_forward_pre_hook(lambda *_: time.sleep(SLEEP))
    model.moe.experts.members[2].forward_sleep = 2 * SLEEP
    result = run(model, tmp_path)
    assert moe(result.inference, "router").ms >= SLOW
    assert moe(result.inference, "experts").ms >= 2 * SLOW
    assert moe(result.inference, "dispatch").ms < FAST
    assert moe(result.inference, "combine").ms < FAST
    slow = [span.ms >= 2 * SLOW for span in result.experts]
    assert slow == [False, False, True, False]
    assert all(span.ms < FAST for span in result.experts if span.expert != 2)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({"router": "soft"}, [2, 2, 2, 2]),  # slots, one for each sample
        ({"path": "grouped", "router": "dense_softmax"}, [32, 32, 32, 32]),
        ({"expert": "conv", "router": "per_image", "expert_args": {"grid": (4, 4)}}, None),
        ({"num_shared_experts": 1, "capacity_factor": 0.5, "top_k": 2}, None),
    ],
)
def test_experts_are_told_apart_however_they_compute(options, rows, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(MoELayer(8, num_experts=4, **options), nn.Linear(8, 3))
    result = run(model, tmp_path, input=[torch.randn(2, 16, 8)])
    found = [span.rows for span in result.experts]
    assert found == (rows or found)
    assert sum(found) > 0
    assert all((span.ms > 0) == (span.rows > 0) for span in result.experts)
    assert {span.what for span in result.inference.moe} >= {"router", "dispatch", "experts", "combine"}


def test_what_checkpointing_runs_again_is_told_apart(tmp_path):
    model = Toy(checkpointed=True)
    model.moe.router.register_forward_pre_hook(lambda *_: time.sleep(SLEEP))
    training = run(model, tmp_path).training
    assert moe(training, "router").ms >= SLOW
    assert moe(training, "router", "backward").ms >= SLOW
    assert of(training.parts, "moe").calls == 1
    assert moe(run(Toy(), tmp_path).training, "router", "backward") is None


def test_memory_is_a_curve_over_the_step(tmp_path):
    model = Toy()
    low = run(model, tmp_path).inference
    model.scratch = 32 * 2**20
    high = run(model, tmp_path).inference
    assert low.peak_memory < 2**20
    assert 32 * 2**20 <= high.peak_memory < 34 * 2**20
    times = [at for at, _ in high.memory]
    assert times == sorted(times)
    assert high.memory[0] == (0.0, 0)
    assert high.memory[-1][1] < 2**20  # it is given back


def test_the_model_is_left_as_it_was(tmp_path):
    model = Toy().train()
    model.norm.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    images = torch.randn(4, 16, 8)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(model, tmp_path, input=[images])
    assert torch.equal(torch.rand(1), expected)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert model.first.fc.weight.grad is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_a_frozen_model_has_no_training_and_one_without_experts_none_of_them(tmp_path):
    model = nn.Sequential(nn.Linear(8, 3)).requires_grad_(False)
    result = run(model, tmp_path, input=[torch.randn(4, 8)])
    assert result.training is None
    assert result.experts == result.inference.moe == ()
    with pytest.raises(ConfigError, match="steps"):
        run(model, tmp_path, steps=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        run(model, tmp_path / "file")


def test_an_accelerators_time_is_that_of_the_work_launched_inside_by_any_thread(tmp_path):
    def event(name, ts, dur, cat="user_annotation", tid=1, **args):
        return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "tid": tid, "args": args}

    def taken(ts, total, kind):
        return {"ph": "i", "name": "[memory]", "ts": ts, "args": {"Total Allocated": total, "Device Type": kind}}

    events = [
        event("moezoo|step", 1000, 9000),
        event("moezoo|phase|forward", 1000, 4000),
        event("moezoo|part|a", 1000, 1000),
        event("moezoo|phase|backward", 5000, 4000),
        event("moezoo|phase|forward", 1000, 7000, cat="gpu_user_annotation"),  # the device's own clock
        event("cudaLaunchKernel", 1500, 10, cat="cuda_runtime", correlation=7),
        event("gemm", 3000, 2500, cat="kernel", tid=99, correlation=7),  # runs after the part, belongs to it
        event("cudaLaunchKernel", 6000, 10, cat="cuda_runtime", tid=2, correlation=8),  # autograd's thread
        event("gemm", 6500, 500, cat="kernel", tid=99, correlation=8),
        taken(1100, 10, 0),
        taken(1200, 5000, 1),
        taken(1300, 7000, 1),
    ]
    path = tmp_path / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}))
    step = step_profile(read_trace(path), "training", str(path), on_cpu=False)
    assert (step.ms, of(step.phases, "forward").ms) == (9.0, 4.0)
    assert of(step.phases, "forward").device_ms == 2.5
    assert of(step.phases, "backward").device_ms == 0.5
    assert (of(step.parts, "a").device_ms, of(step.parts, "(between parts)").ms) == (2.5, 3.0)
    assert [size for _, size in step.memory] == [0, 0, 2000]


@pytest.mark.parametrize("name", ["entity_moe/test_vit", "diff_moe/digits", "diff_moe/shapes.captioner"])
def test_registered_models_are_given_what_they_take_and_a_loss_that_reaches_them(name):
    model = moezoo.create_model(name).train()
    given = random_input(model, 2)
    assert all(torch.equal(a, b) for a, b in zip(given, random_input(model, 2), strict=True))
    assert len(given) == (3 if name.startswith("diff_moe") else 1)
    some_loss(model, model(*given), given).backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_models_are_profiled_by_name_with_progress_and_tables(tmp_path):
    seen = []
    small = {"img_encoder_layers": 1, "text_encoder_layers": 1, "fusion_layers": 1}
    found = profile_models(
        ["diff_moe/digits"], tmp_path, batch_size=2, device="cpu", steps=1, warmup=0, overrides=small,
        progress=lambda done, total, what: seen.append((done, total, what)),
    )  # fmt: skip
    ((folder, result),) = found.items()
    assert folder == tmp_path / "diff_moe-digits"
    assert result.input[1] == (2, 32)
    assert [done for done, _, _ in seen] == list(range(7))
    assert seen[-1] == (6, 6, "done")
    layers = {span.layer.partition(".")[0] for span in result.inference.moe}
    assert layers == {"img_encoder", "text_encoder", "fusion"}
    beside = {(s.layer.partition(".")[0], s.what) for s in result.inference.moe if s.what.endswith("_expert")}
    assert beside == {
        *((layer, "global_expert") for layer in layers),
        ("img_encoder", "vision_expert"),
        ("text_encoder", "text_expert"),
    }
    titles = [table.title for table in profile_tables(result).renderables]
    assert titles[0].startswith("diff_moe/digits, batch 2, float32 on cpu")
    assert len(titles) == 5
    with pytest.raises(ConfigError, match="float8"):
        profile_models("diff_moe/digits", tmp_path, dtype="float8")
