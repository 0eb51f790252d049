"""Writing and reading ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from moezoo.errors import ExportError

LOWEST_OPSET = 18
"""The first one whose scatter and reduction operators the graphs use."""


def write(program: ExportedProgram, file: Path, opset: int | None) -> None:
    """Weights above 2 GB go into a second file, ``<file>.data``: ONNX's own files cannot be larger.

    Raises:
        ExportError: The file does not have the opset that was asked for.
    """
    import onnx

    outputs = program.graph_signature.user_outputs
    onnx_program = torch.onnx.export(
        program,
        input_names=["input"],
        output_names=["output"] if len(outputs) == 1 else None,
        dynamic_shapes=({0: "batch"},),  # names the axis where it is dynamic
        opset_version=opset,
        dynamo=True,
        verbose=False,
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort(), round: _rounded()},
    )
    assert onnx_program is not None
    onnx_program.save(file)
    onnx.checker.check_model(file)
    written = opset_of(file)
    if opset is not None and written != opset:
        raise ExportError(f"opset={opset} is not possible for this model: it needs {written}.")


def opset_of(file: Path) -> int:
    """The version of the ONNX operators that a file asks for."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def load(file: Path) -> Callable[[Tensor], list[Tensor]]:
    """The file run by onnxruntime on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        return [torch.from_numpy(y) for y in session.run(None, {"input": images.cpu().numpy()})]

    return run


def _stable_sort() -> Any:
    """torch's stable sort, which its exporter does not know, as ONNX's TopK of all: ties go to the lower index too."""
    from onnxscript import opset18 as op

    def sort(self, stable=True, dim: int = -1, descending: bool = False):
        size = op.Gather(op.Shape(self), op.Constant(value_ints=[dim]))  # type: ignore[type-var]
        return op.TopK(self, size, axis=dim, largest=int(descending), sorted=1)

    return sort


def _rounded() -> Any:
    """Python's ``round`` of a symbolic number, which the exporter does not know: ONNX's sends halves alike."""
    from onnx import TensorProto
    from onnxscript import opset18 as op

    def rounded(self, ndigits=None):
        return op.Cast(op.Round(self), to=TensorProto.INT64)

    return rounded
