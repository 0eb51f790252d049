"""Writing and reading the files of ``torch.export.save``; reading them takes torch alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

from moezoo.export.rounding import spell_out_rounding


def write(program: ExportedProgram, file: Path, opset: int | None) -> None:
    for part in program.graph_module.modules():
        if isinstance(part, GraphModule):
            spell_out_rounding(part.graph)
            part.recompile()
    torch.export.save(program, file)


def load(file: Path) -> Callable[[Tensor], list[Tensor]]:
    """``torch.export.load(file).module()``, its output flattened."""
    module = torch.export.load(file).module()

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return [leaf for leaf in tree_leaves(module(images)) if isinstance(leaf, Tensor)]

    return run
