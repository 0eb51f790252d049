"""Training with text in two processes, beside one process with the batch of both."""

import math

import pytest
import torch
from rank_pool import run_ranks
from spread_text import fit_texts

ALONE, TWO = {"batch_size": 16}, {"batch_size": 8}


def same(got: dict, want: dict) -> None:
    assert got["test"] == want["test"]
    for mine, theirs in zip(got["curves"], want["curves"], strict=True):
        assert mine == pytest.approx(theirs, rel=0, abs=1e-9)
    for name, value in want["state"].items():
        assert torch.allclose(got["state"][name], value, rtol=0, atol=1e-9), name


def test_two_processes_learn_from_descriptions_as_one_does():
    (alone,) = run_ranks(1, fit_texts, [("described", ALONE, {})])[0]
    for (got,) in run_ranks(2, fit_texts, [("described", TWO, {})]):
        same(got, alone)


@pytest.mark.slow
def test_every_task_runs_in_several_processes():
    """A control without text leaves parameters out, and so does retrieval; nobody waits for their gradients."""
    (captions,) = run_ranks(1, fit_texts, [("captioning", ALONE, {})])[0]
    contrast = {"contrastive_loss_weight": 0.1}
    cases = [
        ("captioning", TWO, {}),
        ("retrieval", TWO, contrast),
        ("described", {**TWO, "text": "none"}, {}),
        ("described", {**TWO, "parallel": "fsdp"}, {}),
        ("described", {**TWO, "expert_parallel": 2}, {}),
        ("retrieval", {**TWO, "parallel": "fsdp"}, contrast),
    ]
    (alone,) = run_ranks(1, fit_texts, [("described", ALONE, {})])[0]
    ranks = run_ranks(2, fit_texts, cases)
    for got in ranks:
        same(got[0], captions)
        same(got[3], alone)
        same(got[4], alone)
    for one, two in zip(*ranks, strict=True):
        same(one, two)
        assert all(math.isfinite(figure) for row in one["curves"] for figure in row)
