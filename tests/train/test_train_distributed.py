import subprocess
import sys

import pytest

SCRIPT = """
import sys
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
