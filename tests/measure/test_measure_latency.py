"""Latency: order of calls, statistics, and what is left untouched. Never how long something took."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.measure import Latency, latency, paired_ratio


@pytest.fixture
def clock(monkeypatch):
    """A clock that only ``clock.work(ms)`` moves."""

    class Clock:
        now = 0

        def work(self, milliseconds):
            self.now += int(milliseconds * 1e6)

    fake = Clock()
    monkeypatch.setattr(time, "perf_counter_ns", lambda: fake.now)
    return fake


def test_percentiles_are_milliseconds_over_the_rounds(clock):
    durations = iter([100, 100, *range(1, 22)])  # two warm-up calls, then 1 to 21 ms
    result = latency(lambda: clock.work(next(durations)), rounds=21, warmup=2)
    assert isinstance(result, Latency)
    assert result.samples == tuple(range(1, 22))
    assert result.p50 == 11
    assert result.p95 == 20
    assert result.ratio is result.ratio_low is result.ratio_high is None


def test_ratios_are_paired_by_round(clock):
    machine = iter([1, 10, 100, 1])  # the machine slows down; the ratio does not change
    speed = {"now": 0}

    def base():
        speed["now"] = next(machine)
        clock.work(speed["now"])

    calls = []

    def other():
        calls.append(1)
        clock.work(3)

    results = latency({"base": base, "other": other}, rounds=4, warmup=0, baseline="base")
    assert results["base"].ratio == 1
    assert len(calls) == 4
    expected = sorted([3 / 1, 3 / 10, 3 / 100, 3 / 1])
    assert results["other"].ratio == pytest.approx((expected[1] + expected[2]) / 2)
    assert results["other"].ratio_low < results["other"].ratio < results["other"].ratio_high


def test_paired_ratio_gives_median_and_quartiles():
    assert paired_ratio([2, 4, 6, 8, 10], [2, 2, 2, 2, 2]) == (3, 2, 4)


def test_every_round_calls_every_model_once_in_rotating_order():
    calls = []
    latency({name: lambda name=name: calls.append(name) for name in "abc"}, rounds=3, warmup=2)
    assert calls[:6] == list("aabbcc")
    assert calls[6:] == list("abc") + list("bca") + list("cab")


def test_modules_run_in_evaluation_mode_without_gradients_and_are_put_back():
    seen = []

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
            self.frozen = nn.Dropout().eval()

        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled(), x.dtype))
            return x * self.p

    probe = Probe()
    threads = torch.get_num_threads()
    latency({"probe": probe}, torch.ones(2), rounds=2, warmup=1)
    assert seen == [(False, False, torch.bfloat16)] * 3
    assert probe.training
    assert not probe.frozen.training
    assert torch.get_num_threads() == threads
    latency(lambda x: seen.append((True, torch.is_grad_enabled(), x.dtype)), torch.ones(2), rounds=1, warmup=0)
    assert seen[-1] == (True, True, torch.float32)


@pytest.mark.parametrize("args", [{"rounds": 0}, {"warmup": -1}, {"rounds": 1.5}, {"baseline": "bass"}])
def test_bad_arguments_are_refused_by_name(args):
    with pytest.raises(ConfigError, match=next(iter(args))):
        latency({"base": lambda: None}, **args)
    with pytest.raises(ConfigError, match="models is empty"):
        latency({})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_is_timed_by_events(monkeypatch):
    monkeypatch.setattr(time, "perf_counter_ns", lambda: pytest.fail("the host's clock was asked"))
    assert latency(nn.Linear(64, 64).cuda(), torch.ones(8, 64), rounds=2, warmup=1).p50 > 0
