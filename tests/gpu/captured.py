"""What CUDA graphs hold, replayed for other tokens. A program of its own: a capture that fails spoils its process."""

from __future__ import annotations

import sys

import torch
from comparing import apart, assert_near
from test_gpu_paths import KINDS, made, tokens

import moezoo

SHAPE = (4, 64, 64)


def training_step(kind):
    """Forward, losses and backward as one graph."""
    layer = made(**KINDS[kind]).to("cuda", torch.bfloat16)
    x = tokens("cuda", *SHAPE, dtype=torch.bfloat16)

    def step():
        for p in layer.parameters():
            p.grad = None
        y = layer(x)
        (y.float().square().mean() + moezoo.aux_loss(layer)).backward()
        return {"output": y, **{name: p.grad for name, p in layer.named_parameters()}}

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # what is set up once may wait
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    x.copy_(tokens("cuda", *SHAPE, dtype=torch.bfloat16))
    graph.replay()
    replayed = {name: value.clone() for name, value in found.items()}
    assert_near(replayed, step(), 1e-2)


def compiled(kind):
    """``torch.compile`` captures what it has compiled."""
    layer = made(**KINDS[kind]).to("cuda", torch.bfloat16).eval()
    quick = torch.compile(layer, fullgraph=True, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            x = tokens("cuda", *SHAPE, dtype=torch.bfloat16)
            assert apart(quick(x).clone(), layer(x)) < 2e-2


if __name__ == "__main__":
    how, *kinds = sys.argv[1:]
    for kind in kinds:
        print(how, kind, flush=True)
        torch.manual_seed(0)
        {"training_step": training_step, "compiled": compiled}[how](kind)
