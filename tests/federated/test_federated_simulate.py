"""Rounds on one machine: what stays, what travels, what fails, and going on."""

from __future__ import annotations

import json
import logging
import os
import signal

import pytest
import torch
from federated_toys import CONFIG, TRAINING, net, splits
from safetensors.torch import load

from moezoo.errors import CheckpointError, ConfigError, DistributedError, Interrupted, NonFiniteError
from moezoo.federated import Client, Message, expert_weighted_average, rounds, simulate
from moezoo.federated.progress import Unwatched
from moezoo.viz import federated_figure


class Spy:
    """Keeps all bytes that travel, and what each client kept at the end of its training, of the first method."""

    def __init__(self, monkeypatch):
        self.sent: list[bytes] = []
        self.local: dict[tuple[int, int], dict] = {}
        self.answers: list[Message] = []
        to_bytes, train = Message.to_bytes, Client.train

        def kept(message):
            self.sent.append(to_bytes(message))
            return self.sent[-1]

        def seen(client, message, step=lambda: None):
            answer = train(client, message, step)
            self.answers.append(answer)
            self.local.setdefault((message.round, client.number), {n: t.clone() for n, t in client.local.items()})
            return answer

        monkeypatch.setattr(Message, "to_bytes", kept)
        monkeypatch.setattr(Client, "train", seen)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A simulation with all baselines, watched."""
    monkeypatch = pytest.MonkeyPatch()
    model, folder = net(), tmp_path_factory.mktemp("federated")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    spy = Spy(monkeypatch)
    found = simulate(model, splits(), CONFIG, training=TRAINING, out=folder, baselines=("fedavg", "local", "central"))
    monkeypatch.undo()
    return found, spy, folder, before


def test_no_local_tensor_is_in_any_message(whole):
    found, spy, _, _ = whole
    mine = [load(data) for data in spy.sent[: 2 * (1 + 3)]]  # two rounds of the first method
    assert len(mine) == 8
    for tensors in mine:
        for name in ("moe.experts.w_in", "moe.experts.b_in", "moe.experts.w_out", "moe.experts.b_out"):
            assert tensors[name].shape[0] == 2  # of three experts
        assert tensors["moe.router.weight"].shape == (2, 8)
        assert set(tensors) == set(found.state)
    rows = [row for local in found.local for row in local["moe.experts.w_in"]]
    values = {float(v) for row in rows for v in row.flatten()}
    sent = {float(v) for tensors in mine for t in tensors.values() for v in t.double().flatten()}
    assert len(values & sent) < 3  # no more than chance


def test_local_experts_are_bit_equal_before_and_after_an_average_and_differ_between_clients(whole):
    found, spy, _, _ = whole
    for client in range(3):
        kept = found.local[client]
        assert all(torch.equal(kept[name], spy.local[2, client][name]) for name in kept)  # as training left it
        model = found.client_model(client)
        assert torch.equal(model.moe.experts.w_in[2], kept["moe.experts.w_in"][0])
        assert torch.equal(model.moe.router.weight[2], kept["moe.router.weight"][0])
        assert torch.equal(model.moe.experts.w_in[:2], found.state["moe.experts.w_in"])
        assert not model.training
    first, second = (found.local[k]["moe.experts.w_in"] for k in (0, 1))
    assert not torch.equal(first, second)


def test_a_round_is_the_weighted_average_of_what_the_clients_sent(whole):
    found, spy, _, _ = whole
    answers = [a for a in spy.answers[:6] if a.round == 2]
    assert [a.client for a in answers] == [0, 1, 2]
    assert all(sum(a.tokens["moe"]) <= a.images * 4 for a in answers)
    first = [a for a in spy.answers[:6] if a.round == 1]
    start = found.split.global_state(net())
    after = expert_weighted_average(first, start, found.split.layout)
    again = expert_weighted_average(answers, after, found.split.layout)
    assert all(torch.equal(again[name], tensor) for name, tensor in found.state.items())


def test_the_callers_model_is_left_alone_and_the_report_says_all(whole):
    found, _, folder, before = whole
    assert all(torch.equal(tensor, before[name]) for name, tensor in found.model.state_dict().items())
    data = json.loads((folder / "federated.json").read_text())
    assert list(data["methods"]) == ["federated", "fedavg", "local", "central"]
    for method in data["methods"].values():
        assert [each["round"] for each in method["rounds"]] == [1, 2]
        assert len(method["test"]) == 3
        assert 0 <= method["everywhere"] <= 1
    assert data["methods"]["local"]["server"] is None
    assert data["methods"]["federated"]["server"] is not None
    assert data["methods"]["federated"]["failures"] == 0
    assert data["sent"]["local"] == sum(t.numel() for t in found.local[0].values())
    assert [sum(row) for row in zip(*data["class_counts"], strict=True)] == [16] * 4
    figure = federated_figure(data)
    assert figure.data["federated"]["everywhere"].shape == (2, 3)
    # What a client knows nothing of, alone it gets wrong: four classes dealt out to three clients.
    assert data["methods"]["local"]["everywhere"] < 0.6
    assert data["methods"]["local"]["own"] > data["methods"]["local"]["everywhere"]


def test_the_global_accuracy_of_a_single_client_is_without_its_local_expert(monkeypatch):
    judged = []
    monkeypatch.setattr(rounds, "class_accuracies", lambda model, *_: judged.append(model) or (0.5, [0.5] * 4))
    simulate(net(), splits(), CONFIG, training=TRAINING, clients=1, rounds=1)
    assert [model.moe.num_experts for model in judged] == [3, 2, 3, 2]


def test_a_killed_simulation_goes_on_and_ends_as_if_nothing_had_been(tmp_path, whole):
    class Killed(Unwatched):
        def round(self, method, result):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="round 2"):
        simulate(net(), splits(), CONFIG, training=TRAINING, out=tmp_path, watcher=Killed())
    assert not (tmp_path / "federated.json").exists()
    steps = []

    class Counting(Unwatched):
        def begin(self, steps_in_all, done):
            steps.append((steps_in_all, done))

    found = simulate(net(), splits(), CONFIG, training=TRAINING, out=tmp_path, watcher=Counting())
    assert steps[0][1] * 2 == steps[0][0]  # the second of two rounds was left
    assert all(torch.equal(tensor, whole[0].state[name]) for name, tensor in found.state.items())
    for k in range(3):
        assert all(torch.equal(t, whole[0].local[k][name]) for name, t in found.local[k].items())
    with pytest.raises(CheckpointError, match="alpha"):
        simulate(net(), splits(), CONFIG, training=TRAINING, out=tmp_path, alpha=0.7)
    path = tmp_path / "checkpoints" / "federated.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="damaged"):
        simulate(net(), splits(), CONFIG, training=TRAINING, out=tmp_path)


def test_a_client_that_fails_is_left_out_of_the_round_and_counted(monkeypatch, caplog):
    train = Client.train

    def failing(client, message, step=lambda: None):
        if client.number == 1 and message.round == 1:
            raise RuntimeError("out of memory")
        answer = train(client, message, step)
        if client.number == 2 and message.round == 2:
            state = dict(answer.state)
            state["head.weight"] = state["head.weight"] * float("nan")
            client.local = {name: t + 1 for name, t in client.local.items()}
            return Message(state, 2, 2, answer.images, answer.tokens)
        return answer

    monkeypatch.setattr(Client, "train", failing)
    with caplog.at_level(logging.WARNING):
        found = simulate(net(), splits(), CONFIG, training=TRAINING)
    rounds = found.result.methods["federated"].rounds
    assert rounds[0].failed == {"1": "RuntimeError: out of memory"}
    assert "NonFiniteError" in rounds[1].failed["2"]
    assert "head.weight" in rounds[1].failed["2"]
    assert found.result.methods["federated"].failures == 2
    assert "goes on without client 1" in caplog.text
    assert all(t.isfinite().all() for t in found.state.values())

    def dead(client, message, step=lambda: None):
        raise NonFiniteError("gone")

    monkeypatch.setattr(Client, "train", dead)
    with pytest.raises(DistributedError, match="no client finished round 1: client 0"):
        simulate(net(), splits(), CONFIG, training=TRAINING)


def test_settings_that_do_not_fit_are_refused_before_anything_is_trained():
    for options, message in (
        ({"clients": 5}, "only 4 classes"),
        ({"rounds": 0}, "rounds=0"),
        ({"baselines": ("fedagv",)}, "fedavg"),
        ({"local_experts": (9,)}, "no expert"),
        ({"training": TRAINING.__class__(ema_decay=0.9)}, "ema_decay"),
        ({"training": TRAINING.__class__(early_stopping=2)}, "early_stopping"),
    ):
        with pytest.raises(ConfigError, match=message):
            simulate(net(), splits(), CONFIG, **{"training": TRAINING, **options})
    with pytest.raises(ConfigError, match="overwrite"):
        simulate(net(), splits(), CONFIG, training=TRAINING, overwrite=True)
