"""The one process, and what is refused before many begin."""

from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from moezoo.errors import ConfigError, DistributedError
from moezoo.moe import MoELayer
from moezoo.train import TrainingConfig
from moezoo.train.parallel import check_launch, make_parallel, process_group_settings
from moezoo.train.parallel.blocks import find_blocks

CONFIG = TrainingConfig(device="cpu")


class Accelerator:
    device = torch.device("cpu")

    def __init__(self, num_processes: int = 1):
        self.num_processes = num_processes


def test_alone_nothing_is_wrapped_and_everything_is_the_identity():
    parallel = make_parallel(CONFIG, Accelerator())
    model = nn.Linear(2, 2)
    assert parallel.prepare(model) is model
    assert parallel.release(model) is model
    assert (parallel.rank, parallel.world, parallel.is_main, parallel.device_mesh) == (0, 1, True, None)
    with parallel.accumulate(model, last=False):
        (model(torch.ones(1, 2)).sum() * 30).backward()
    parallel.finish_backward(model)
    norm = parallel.grad_norm(model)
    parallel.clip(model, 1.0, norm)
    assert norm > 10
    assert parallel.grad_norm(model) == pytest.approx(1.0, abs=1e-4)
    assert (parallel.any(True), parallel.any(False), parallel.gather("x")) == (True, False, ["x"])
    value = torch.ones(2)
    assert torch.equal(parallel.sum(value), value)
    assert parallel.sum(value) is not value
    parallel.barrier()


@pytest.mark.parametrize(("wanted", "processes"), [(3, 4), (2, 1), (8, 4)])
def test_experts_are_shared_by_a_number_that_divides_the_processes(wanted, processes):
    with pytest.raises(ConfigError, match=rf"expert_parallel={wanted} does not divide.*{processes}\. Allowed here: 1"):
        make_parallel(replace(CONFIG, expert_parallel=wanted), Accelerator(processes))


def test_a_launcher_that_started_one_of_several_is_noticed(monkeypatch):
    check_launch()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    check_launch()  # one was asked for
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(DistributedError, match="torchrun --nproc-per-node 2"):
        make_parallel(CONFIG, Accelerator())
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch()


def test_the_process_group_waits_as_long_as_the_configuration_says():
    assert process_group_settings(replace(CONFIG, dist_timeout=12)).timeout.total_seconds() == 12


def test_blocks_are_what_stands_in_stacks_and_never_parts_of_an_moe_layer():
    with torch.device("meta"):
        vit = timm.create_model("test_vit")
        swin = timm.create_model("swin_tiny_patch4_window7_224")
    assert find_blocks(vit) == list(vit.blocks)
    found = find_blocks(swin)
    assert set(found) == {*swin.layers, *(block for stage in swin.layers for block in stage.blocks)}
    assert found.index(swin.layers[2].blocks[0]) < found.index(swin.layers[2])
    modules = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)]
    moe = MoELayer(4, num_experts=2, expert="modules", expert_args={"modules": modules})
    assert find_blocks(nn.Sequential(moe, nn.Linear(4, 4))) == []
