"""``moezoo federate``: what it prints, writes and refuses. What it does is in ``tests/federated``."""

import json
import sys

import ablation_toys
import pytest
import torch
from command_line import command

import moezoo


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


GIVEN = ("federate", "entity_moe/test_vit", "--clients", 2, "--rounds", 1, "--partition", "iid", "--set")
GIVEN += (f"data.name={ablation_toys.NAME}", "--set", "training.device=cpu", "--set", "viz.dpi=40")


def test_the_table_the_files_the_picture_and_the_clients_models_come_out_and_a_second_call_reads_them(tmp_path):
    given = (
        *GIVEN,
        "--baselines",
        "local",
        "--local-experts",
        "0,-1",
        "--local-dropout",
        0.5,
        "--set",
        "training.batch_size=4",
    )
    ended = command(*given)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "runs" / "federated-entity_moe-test_vit"
    data = json.loads((folder / "federated.json").read_text())
    assert list(data["methods"]) == ["federated", "local"]
    assert list(data["local_experts"].values()) == [[0, 3]]
    assert data["facts"]["federated"]["local_dropout"] == 0.5
    assert (folder / "federated.png").is_file()
    assert "federated round 1  val " in ended.stdout
    assert "worst client" in ended.stdout
    models = [moezoo.create_model(f"local-dir:{folder / 'clients' / str(k)}", pretrained=True) for k in (0, 1)]
    for name, one in models[0].state_dict().items():
        other = models[1].state_dict()[name]
        if name.endswith("experts.w_in"):
            assert torch.equal(one[1:3], other[1:3])
            assert not torch.equal(one[0], other[0])
        elif "router" not in name:
            assert torch.equal(one, other) or ".experts." in name, name
    again = command(*given)
    assert again.returncode == 0
    assert "federated round 1" not in again.stdout


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--local-experts", "last"), "numbers such as -1"),
        (("--local-experts", "7"), "no expert"),
        (("--baselines", "fedagv"), "fedavg"),
        (("--partition", "dirichelt"), "dirichlet"),
        (("--local-dropout", 1), "less than 1"),
        (("--clients", 30), "there are 20"),
        (("--serve", "127.0.0.1:1", "--join", "127.0.0.1:1"), "either the server or a client"),
        (("--join", "127.0.0.1:1"), 'pip install "moezoo[federated]"'),
    ],
)
def test_what_cannot_be_is_one_message(more, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "flwr", None)
    monkeypatch.delitem(sys.modules, "moezoo.federated.flower", raising=False)
    ended = command(*GIVEN, *more)
    assert ended.returncode == 1
    assert message in ended.stderr
