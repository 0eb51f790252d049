"""Real processes that talk gRPC over the loopback, by Flower, in an environment of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import site
import socket
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import torch
from federated_toys import CONFIG, TRAINING, net, splits
from safetensors.torch import load_file

import moezoo
from moezoo.errors import MissingPackageError
from moezoo.federated import simulate

HERE = Path(__file__).parent
REQUIREMENT = "flwr>=1.42"


def test_without_flower_the_error_names_the_extra(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("moezoo.federated.flower")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "flwr", None)
    with pytest.raises(MissingPackageError, match=r'pip install "moezoo\[federated\]"'):
        importlib.import_module("moezoo.federated.flower")


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> str:
    """An interpreter with Flower: this one, or that of a new environment with this one's packages behind its own."""
    if importlib.util.find_spec("flwr") is not None:
        return sys.executable
    folder = tmp_path_factory.mktemp("flower") / "venv"
    venv.create(folder, with_pip=False, symlinks=True)
    found = str(folder / ("Scripts" if os.name == "nt" else "bin") / "python")
    own = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    places = [p for p in (*site.getsitepackages(), sysconfig.get_path("purelib")) if Path(p).is_dir()]
    lines = [f"import site; site.addsitedir({place!r})" for place in dict.fromkeys(places)]
    (own / "zz_outer.pth").write_text("\n".join(lines) + "\n")
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", found, "install", "--quiet", REQUIREMENT],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if installed.returncode:
        pytest.skip(f"{REQUIREMENT} cannot be installed here: {installed.stderr.strip()[-300:]}")
    return found


def free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


def start(command: list[str], folder: Path, name: str, **more: str) -> subprocess.Popen:
    """Begin a process whose output goes into a file."""
    paths = os.pathsep.join([str(Path(moezoo.__file__).parents[1]), str(HERE)])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HOME": str(folder), **more}
    environment.pop("FLWR_TELEMETRY_ENABLED", None)
    with (folder / f"{name}.log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=folder)


def together(python: str, folder: Path, **more: str) -> dict[str, int]:
    """A server and its clients, to the end; their exit codes."""
    folder.mkdir(exist_ok=True)
    port = str(free_port())
    command = [python, str(HERE / "flower_process.py")]
    roles = ["server", *map(str, range(CONFIG.clients))]
    processes = {role: start([*command, role, port, str(folder)], folder, role, **more) for role in roles}
    try:
        return {role: process.wait(timeout=500) for role, process in processes.items()}
    finally:
        for process in processes.values():
            process.kill()


def ends_of_logs(folder: Path) -> str:
    """For the message of a failure."""
    return "\n".join(f"{path.name}: …{path.read_text()[-1500:]}" for path in sorted(folder.glob("*.log")))


@pytest.mark.slow
def test_processes_over_grpc_end_where_the_simulation_does(python, tmp_path):
    ended = together(python, tmp_path)
    assert set(ended.values()) == {0}, ends_of_logs(tmp_path)
    told = json.loads((tmp_path / "server.json").read_text())
    assert [each["clients"] for each in told["rounds"]] == [[0, 1, 2], [0, 1, 2]]
    assert [each["failed"] for each in told["rounds"]] == [[], []]
    assert told["telemetry"] == "0"
    found = simulate(net(), splits(), CONFIG, training=TRAINING)
    served = load_file(tmp_path / "global.safetensors")
    assert served.keys() == found.state.keys()
    for name, tensor in found.state.items():
        assert torch.allclose(served[name], tensor, atol=1e-5), name
    for client in range(3):
        assert {n: t.shape for n, t in served.items()} == {
            n: t.shape for n, t in load_file(tmp_path / f"global{client}.safetensors").items()
        }
        local = load_file(tmp_path / f"local{client}.safetensors")
        assert all(torch.allclose(local[name], t, atol=1e-5) for name, t in found.local[client].items())
    scores = [score["everywhere"] for score in told["rounds"][-1]["scores"]]
    last = found.result.methods["federated"].rounds[-1].clients
    assert scores == pytest.approx([score.everywhere for score in last], abs=0.05)


@pytest.mark.slow
def test_a_process_that_dies_and_one_that_fails_are_done_without(python, tmp_path):
    ended = together(python, tmp_path, DIES_IN="1:2", FAILS_IN="2:1")
    assert (ended["server"], ended["1"]) == (0, 9), ends_of_logs(tmp_path)
    first, second = json.loads((tmp_path / "server.json").read_text())["rounds"]
    assert first["clients"] == [0, 1]
    assert first["failed"] == ["client 2: RuntimeError: out of memory"]
    assert second["clients"] == [0, 2]
    assert "gone" in second["failed"][0]
    assert all(t.isfinite().all() for t in load_file(tmp_path / "global.safetensors").values())


@pytest.mark.slow
def test_the_command_line_works_in_both_environments_and_serves_and_joins(python, tmp_path):
    for interpreter in (sys.executable, python):
        listed = start([interpreter, "-m", "moezoo", "list", "entity_moe/test*"], tmp_path, "list")
        assert listed.wait(timeout=120) == 0
        assert "entity_moe/test_vit" in (tmp_path / "list.log").read_text()
    port = free_port()
    common = ["-m", "moezoo", "federate", "entity_moe/test_vit", "--clients", "2", "--rounds", "1"]
    common += ["--set", "data.name=digits", "--set", "training.device=cpu", "--out", str(tmp_path / "run")]
    roles = {"server": ["--serve", f"127.0.0.1:{port}"]}
    roles |= {f"client {k}": ["--join", f"127.0.0.1:{port}", "--client", str(k)] for k in (0, 1)}
    processes = {role: start([python, *common, *more], tmp_path, role) for role, more in roles.items()}
    for process in processes.values():
        assert process.wait(timeout=500) == 0, ends_of_logs(tmp_path)
    told = json.loads((tmp_path / "run" / "server.json").read_text())
    assert told["rounds"][0]["clients"] == [0, 1]
    served = load_file(tmp_path / "run" / "global.safetensors")
    mine = moezoo.create_model(f"local-dir:{tmp_path / 'run' / 'client-1'}", pretrained=True).state_dict()
    assert torch.equal(mine["patch_embed.proj.weight"], served["patch_embed.proj.weight"])
    stacks = [name for name in served if name.endswith("experts.w_in")]
    assert stacks
    assert all(len(served[name]) == len(mine[name]) - 1 for name in stacks)
