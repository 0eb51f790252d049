import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from moezoo.data import ImageTensors, Splits
from moezoo.moe import MoELayer
from moezoo.train import TrainingConfig, fit, seeded

torch.set_num_threads(1)
generator = torch.Generator().manual_seed(0)
part = ImageTensors(torch.randn(32, 1, 2, 2, generator=generator), torch.arange(32) % 4)
splits = Splits("toy", part, part, part, tuple("abcd"), (0.5,), (0.5,))
with seeded(0):
    model = nn.Sequential(nn.Flatten(), MoELayer(4, num_experts=4, hidden_dim=8), nn.Linear(4, 4))
before = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
config = TrainingConfig(epochs=2, batch_size=4, lr=0.01, warmup_epochs=0.0, device="cpu")
result = fit(model, splits, config, out=sys.argv[1])
after = torch.cat([p.detach().flatten() for p in model.parameters()])
both = [torch.empty_like(after) for _ in range(dist.get_world_size())]
dist.all_gather(both, after)
assert dist.get_world_size() == 2
assert torch.equal(both[0], both[1])
assert not torch.equal(before, after)
assert type(model) is nn.Sequential
assert result.history[0].routing[0].tokens == 32
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, script, tmp_path / "out"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "out" / "metrics.jsonl").read_text().splitlines()) == 2


ROUTED = """
import os, sys
import torch
sys.path.insert(0, sys.argv[3])
from routing_toys import bright_splits, routing_toy
from moezoo.train import TrainingConfig, fit

torch.set_num_threads(1)
world, looked = int(os.environ.get("WORLD_SIZE", 1)), []
config = TrainingConfig(
    epochs=1, batch_size=24 // world, lr=1e-6, warmup_epochs=0.0, device="cpu", parallel=sys.argv[2]
)
fit(routing_toy(), bright_splits(), config, out=sys.argv[1], on_epoch=lambda model, splits, metrics: looked.append(1))
shown = world == 1 or (sys.argv[2] == "ddp" and os.environ["RANK"] == "0")
assert looked == [1] * shown  # a model in pieces cannot be shown by one process
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_two_processes_log_the_ratio_of_all_their_images(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(ROUTED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    found = []
    for name, command in (("one", [sys.executable]), ("two", torchrun)):
        words = [*command, script, tmp_path / name, how, Path(__file__).parents[1]]
        done = subprocess.run(words, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        epoch = json.loads((tmp_path / name / "metrics.jsonl").read_text())
        test = json.loads((tmp_path / name / "metrics.json").read_text())["test"]["budget"]
        used = ("routing_ratio", "flops_per_image", "val_routing_ratio", "val_flops_per_image")
        found.append([*(epoch[key] for key in used), test["ratio"]["mean"], test["flops_per_image"]["p95"]])
    assert found[0] == pytest.approx(found[1])


NORMALISED = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
sys.path.insert(0, sys.argv[3])
from train_toys import SignalAt
from moezoo.data import ImageTensors, Splits
from moezoo.errors import Interrupted
from moezoo.train import TrainingConfig, fit, seeded

torch.set_num_threads(1)
out, how = Path(sys.argv[1]), sys.argv[2]
generator = torch.Generator().manual_seed(0)
part = ImageTensors(torch.randn(32, 1, 2, 2, generator=generator), torch.arange(32) % 4)
splits = Splits("toy", part, part, part, tuple("abcd"), (0.5,), (0.5,))

def run(folder, stops, **settings):
    config = TrainingConfig(batch_size=4, lr=0.05, warmup_epochs=0.0, device="cpu", parallel=how, **settings)
    for stop in (*stops, 0):
        with seeded(0):
            model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
        try:
            result = fit(model, splits, config, out=out / folder, resume="auto", observer=SignalAt(stop))
            assert not stop
        except Interrupted:
            assert stop
    state = torch.cat([t.detach().double().flatten() for t in model.state_dict().values()])
    return state, torch.tensor([[m.val_loss, m.score] for m in result.history])

for ema in (None, 0.5):
    state, scores = run(f"whole{ema}", (), epochs=2, ema_decay=ema)
    both = [torch.empty_like(state) for _ in range(2)]
    dist.all_gather(both, state)
    assert torch.equal(*both)  # the statistics too, with which the epochs were judged
    # Every epoch has 4 steps. The others learn of a signal a step later: in an epoch, and before its validation.
    again, same = run(f"parts{ema}", (1, 1), epochs=2, ema_decay=ema)
    assert torch.equal(scores, same), (scores, same)
    assert torch.equal(state, again)
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_processes_are_judged_with_the_statistics_of_the_first_and_resumed_with_them(tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(NORMALISED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words = [*torchrun, script, tmp_path / "out", how, Path(__file__).parent]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
