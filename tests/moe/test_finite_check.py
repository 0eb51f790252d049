"""NaN in the logits of a GPU, which answers later: a device is played that answers when the test lets it."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

from moezoo.errors import NonFiniteError
from moezoo.moe import MoELayer, finite


class Device:
    """Says that every value is a GPU's, and lets the first ``answered`` of them arrive."""

    def __init__(self, monkeypatch):
        self.asked = self.answered = 0
        self.captures = False
        monkeypatch.setattr(finite, "answers_later", lambda value: True)
        monkeypatch.setattr(finite, "capturing", lambda: self.captures)
        monkeypatch.setattr(finite, "copied_aside", self.copied_aside)

    def copied_aside(self, value):
        number, self.asked = self.asked, self.asked + 1
        return value.clone(), Arrival(self, number)


class Arrival:
    def __init__(self, device, number):
        self.device, self.number = device, number

    def query(self):
        return self.number < self.device.answered

    def __reduce__(self):
        raise TypeError("events of a device cannot be copied")


@pytest.fixture
def device(monkeypatch):
    return Device(monkeypatch)


def good_and_bad(value=torch.nan):
    good = torch.randn(3, 5, 8)
    bad = good.clone()
    bad[1, 2, 3] = value
    return good, bad


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_the_next_call_raises_once_the_answer_is_there(device, value):
    good, bad = good_and_bad(value)
    layer = MoELayer(8, num_experts=4)
    for x in (good, bad, good):  # nobody waits
        layer(x)
    device.answered = 1
    layer(good)
    device.answered = 4
    with pytest.raises(NonFiniteError, match="earlier training forward"):
        layer(good)
    layer(good)  # once for all of that time
    device.answered = device.asked
    layer(bad)
    device.answered = device.asked
    layer.eval()
    with pytest.raises(NonFiniteError, match="earlier"):
        layer(good)
    asked = device.asked
    assert layer(bad).isnan().any()  # in evaluation nothing is asked
    layer.train().router.refuses_nonfinite = False
    layer(bad)
    assert device.asked == asked


def test_a_graph_that_is_captured_neither_asks_nor_looks(device):
    good, bad = good_and_bad()
    layer = MoELayer(8, num_experts=4)
    layer(bad)
    device.answered, device.captures = 1, True
    layer(bad)
    assert device.asked == 1
    device.captures = False
    with pytest.raises(NonFiniteError):
        layer(good)


def test_copies_and_files_remember_no_question(device):
    good, bad = good_and_bad()
    layer = MoELayer(8, num_experts=4)
    names = list(layer.state_dict())
    layer(bad)
    device.answered = 1
    assert list(layer.state_dict()) == names
    stored = io.BytesIO()
    torch.save(layer, stored)
    stored.seek(0)
    others = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(stored, weights_only=False)]
    for other in others:
        other(good)
    with pytest.raises(NonFiniteError):
        layer(good)


def test_nothing_is_asked_of_a_graph_of_torch_compile(device):
    good, bad = good_and_bad()
    layer = MoELayer(8, num_experts=4)
    assert torch.compile(layer, backend="eager", fullgraph=True)(bad).isnan().any()
    assert not device.asked
    layer(torch.randn(0, 8))
    layer.to("meta")(good.to("meta"))
    assert not device.asked
