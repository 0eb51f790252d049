"""Who shares what: the processes as a grid."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from moezoo.errors import ConfigError
from moezoo.train.config import TrainingConfig


def make_mesh(config: TrainingConfig, device: torch.device, world: int) -> DeviceMesh:
    """(dp, ep) over all processes: neighbours, which are nearest on a machine, share the experts. Collective.

    Raises:
        ConfigError: ``config.expert_parallel`` does not divide the number of processes.
    """
    check_expert_parallel(config.expert_parallel, world)
    shape = (world // config.expert_parallel, config.expert_parallel)
    return _with_timeout(init_device_mesh(device.type, shape, mesh_dim_names=("dp", "ep")), config)


def make_flat_mesh(config: TrainingConfig, device: torch.device, world: int) -> DeviceMesh:
    """All processes in a row. Collective."""
    return _with_timeout(init_device_mesh(device.type, (world,), mesh_dim_names=("world",)), config)


def check_expert_parallel(expert_parallel: int, world: int) -> None:
    """Raises :class:`~moezoo.errors.ConfigError` where that many processes cannot share the experts."""
    if world % expert_parallel:
        fits = [str(n) for n in range(1, world + 1) if world % n == 0]
        raise ConfigError(
            f"expert_parallel={expert_parallel} does not divide the number of processes, {world}. Allowed here: "
            f"{', '.join(fits)}; torchrun --nproc-per-node says how many processes there are."
        )


def _with_timeout(mesh: DeviceMesh, config: TrainingConfig) -> DeviceMesh:
    """New groups wait as long as their backend's default, whatever the first one was told: tell them too."""
    set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
    for group in mesh.get_all_groups():
        set_timeout(timedelta(seconds=config.dist_timeout), group)
    return mesh
