"""What a checkpoint holds comes back: generators, optimisers, models; what does not fit is told in words."""

from __future__ import annotations

import copy
import json
import random

import numpy as np
import pytest
import timm.optim
import torch
from torch import nn

from moezoo.errors import CheckpointError, MoeZooWarning
from moezoo.train.checkpoint import (
    load_checkpoint,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
    rng_state,
    save_checkpoint,
    set_rng_state,
)


def test_random_generators_go_on_where_they_were(recwarn):
    random.gauss(0, 1)
    np.random.randn()
    state = json.loads(json.dumps(rng_state()))

    def draw():
        return random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()

    first = draw()
    set_rng_state(state)
    assert draw() == first
    assert not [warning for warning in recwarn if warning.category is MoeZooWarning]
    with pytest.raises(CheckpointError, match="random state"):
        set_rng_state({"python": [3, [1, 2], None]})
    if not torch.cuda.is_available():
        with pytest.warns(MoeZooWarning, match="saved on cuda"):
            set_rng_state({**state, "cuda": ""})


class Tied(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        self.last.weight = self.first.weight
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


def step(model, optimizer):
    torch.manual_seed(3)
    optimizer.zero_grad()
    loss = model(torch.randn(5, 6)).square().mean()
    loss.backward()
    optimizer.step(lambda: loss)


def groups_of(model, turn):
    named = list(dict(model.named_parameters()).items())
    parts = [{"params": named[0::2], "lr": 0.01}, {"params": named[1::2], "weight_decay": 0.3}]
    return [{**part, "params": [p for _, p in part["params"][::turn]]} for part in parts[::turn]]


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, amsgrad=True),
    "adamw_foreach": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=True),
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "adamw_capturable": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.1), foreach=False),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.1),
    "lamb": lambda groups: timm.optim.Lamb(groups, lr=0.1),  # counts its steps by a tensor of the group
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_bit_for_bit_with_its_groups_in_another_order(tmp_path, name):
    torch.manual_seed(0)
    model = Tied()
    optimizer = OPTIMIZERS[name](groups_of(model, 1))
    for _ in range(3):
        step(model, optimizer)
    optimizer.param_groups[0]["lr"] *= 0.5
    held, values = optimizer_state(optimizer, model)
    path = save_checkpoint(tmp_path, 3, {"model": model_state(model), "optimizer": held}, {"optimizer": values})

    other = Tied()
    again = OPTIMIZERS[name](groups_of(other, -1))
    step(other, again)
    loaded, said = load_checkpoint(path)
    load_model_state(torch.compile(other), loaded["model"])
    load_optimizer_state(again, other, loaded["optimizer"], said["optimizer"])
    assert [float(g["lr"]) for g in again.param_groups] == [float(g["lr"]) for g in optimizer.param_groups[::-1]]
    for _ in range(3):
        step(model, optimizer)
        step(other, again)
    for (key, here), there in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(here, there), key
    # Not one and the same memory: a checkpoint in hand can be loaded twice, by one that has not stepped yet, too.
    fresh = OPTIMIZERS[name](groups_of(other, -1))
    load_optimizer_state(fresh, other, loaded["optimizer"], said["optimizer"])
    step(other, fresh)
    for key, tensor in held.items():
        assert torch.equal(tensor, loaded["optimizer"][key]), key


def test_an_optimizer_that_does_not_fit_is_told_and_left_alone():
    model = Tied()
    optimizer = torch.optim.AdamW(groups_of(model, 1), lr=0.1)
    step(model, optimizer)
    held, values = optimizer_state(optimizer, model)
    before = copy.deepcopy(optimizer.state_dict())

    def refused(words, optimizer=optimizer, model=model, values=values):
        with pytest.raises(CheckpointError, match=words):
            load_optimizer_state(optimizer, model, held, values)

    refused("AdamW, not SGD", torch.optim.SGD(model.parameters(), lr=0.1))
    refused(
        "Only in the checkpoint.*first.weight.*only here .0.: none",
        torch.optim.AdamW([p for p in model.parameters() if p is not model.first.weight]),
    )
    refused("group 0 .*different lr, weight_decay", torch.optim.AdamW(model.parameters()))
    assert str(optimizer.state_dict()) == str(before)
    with pytest.raises(CheckpointError, match=r"not the model's, the first of shape \(6, 6\)"):
        optimizer_state(optimizer, Tied())
    search = torch.optim.LBFGS(model.parameters())
    loss = model(torch.randn(5, 6)).square().mean()
    loss.backward()
    search.step(lambda: loss)
    with pytest.raises(CheckpointError, match=r"state of LBFGS cannot be saved: .* is a list"):
        optimizer_state(search, model)


def test_a_model_that_does_not_fit_is_told_in_one_list_and_left_alone():
    model = Tied()
    state = model_state(nn.parallel.DataParallel(torch.compile(model)))
    assert list(state) == list(model.state_dict())
    before = model_state(model)
    with pytest.raises(CheckpointError, match=r"shape \(8\): .*first.weight: file \(6, 6\) vs model \(7, 7\)"):
        load_model_state(Tied(7), state)
    with pytest.raises(CheckpointError, match=r"dtype \(1\): first.bias: checkpoint float64 vs model float32"):
        load_model_state(model, {**state, "first.bias": state["first.bias"].double() + 1})
    with pytest.raises(CheckpointError, match=r"missing .*norm.bias.*unexpected .*bias.norm"):
        load_model_state(model, {name.replace("norm.bias", "bias.norm"): value + 1 for name, value in state.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
