"""Checkpoints do not know how many processes wrote them."""

from __future__ import annotations

import pytest
import torch

from moezoo.train.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def processes(nursery, tmp_path_factory):
    """``run(world, how, source, target)``: that many processes save into ``target``."""

    def run(world, how, source, target):
        target.mkdir()
        logs = [target / f"log-{rank}" for rank in range(world)]
        store = target / "store"
        store.touch()
        children = [
            nursery.start("faulty_runs:spread", rank, world, how, store, source, target, log=log)
            for rank, log in enumerate(logs)
        ]
        assert [child.wait(90.0) for child in children] == [0] * world, "\n".join(log.read_text() for log in logs)
        return load_checkpoint(target / "checkpoints" / "step-00000002")

    return run


@pytest.mark.parametrize(
    ("before", "after"), [((4, "fsdp"), (3, "ep")), ((4, "ep"), (3, "fsdp")), ((4, "ep"), (1, ""))]
)
def test_what_many_save_others_load_bit_for_bit(processes, tmp_path, before, after):
    tensors, values = processes(*before, "", tmp_path / "before")
    assert tensors["model"]["1.experts.w_in"].shape[0] == 12
    assert {"model", "optimizer"} == set(tensors)
    again, values_again = processes(*after, tmp_path / "before" / "checkpoints", tmp_path / "after")
    assert values_again == values
    assert len(values["groups"]) == 4
    for group, held in tensors.items():
        assert set(again[group]) == set(held)
        for name, tensor in held.items():
            assert torch.equal(again[group][name], tensor), name
            assert tensor.count_nonzero() > 0, name
