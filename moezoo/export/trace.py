"""From a model to the graph that both formats are written from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.nn.attention import SDPBackend, sdpa_kernel

from moezoo.errors import ExportError
from moezoo.moe import MoELayer

PATH = "static"
"""The path (:mod:`moezoo.moe.paths`) that needs plain operators only, so that no reader needs moezoo."""


@contextmanager
def exportable(model: nn.Module) -> Iterator[None]:
    """Every MoE layer of ``model`` computes in a way that any reader of the graph can; put back afterwards.

    Raises:
        ExportError: The experts of a layer, a kind of somebody's own, cannot be computed so.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}
    for name, layer in layers.items():
        if PATH not in layer.experts.paths:
            raise ExportError(
                f"the experts of {name or 'the layer'!r} ({type(layer.experts).__name__}) cannot be exported: they "
                f"know the paths {', '.join(layer.experts.paths)}, and exporting takes {PATH!r}."
            )
    before = {name: layer.path for name, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.path = PATH
        yield
    finally:
        for name, layer in layers.items():
            layer.path = before[name]


def trace(model: nn.Module, images: Tensor, *, dynamic_batch: bool) -> ExportedProgram:
    """The graph of ``model`` in the mode it is in; with ``dynamic_batch`` for any number of images from 1 on."""
    shapes = ({0: Dim("batch", min=1)},) if dynamic_batch else None
    # The graph holds attention as one operator either way, but choosing a kernel on a GPU would limit the batch.
    with exportable(model), sdpa_kernel(SDPBackend.MATH):
        program = torch.export.export(model, (images,), dynamic_shapes=shapes, strict=False)
    graphs = [part.graph for part in program.graph_module.modules() if isinstance(part, GraphModule)]
    for node in itertools.chain.from_iterable(graph.nodes for graph in graphs):
        node.meta.pop("stack_trace", None)  # paths and source lines of this machine
    return program
