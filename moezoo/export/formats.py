"""The file formats: what each needs, how it is written and read, and how close it must come to the model."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.export import ExportedProgram

from moezoo.errors import ConfigError, MissingPackageError
from moezoo.export import to_onnx, to_pt2
from moezoo.moe.checks import check_choice, check_int


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    limit: float
    """The largest error allowed, relative to the largest output: another runtime sums in another order."""
    packages: tuple[str, ...]
    """What writing takes beyond moezoo's own requirements."""
    check_packages: tuple[str, ...]
    """What reading takes."""
    write: Callable[[ExportedProgram, Path, int | None], None]
    """``write(program, file, opset)``."""
    load: Callable[[Path], Callable[[Tensor], list[Tensor]]]
    """The file as a function from images to the model's output tensors."""


FORMATS = {
    "onnx": Format(1e-4, ("onnx", "onnxscript"), ("onnxruntime",), to_onnx.write, to_onnx.load),
    "pt2": Format(1e-5, (), (), to_pt2.write, to_pt2.load),
}


def check_target(file: str | Path, format: str, *, opset: int | None = None, check: bool = True) -> Format:
    """The format, once it is certain that ``file`` may become such a file and that the packages are there.

    Raises:
        ConfigError: ``format`` is unknown, ``file`` does not end in its name, or ``opset`` does not belong to it.
        MissingPackageError: A package is not installed.
    """
    chosen = FORMATS[check_choice("format", format, FORMATS)]
    if Path(file).suffix != f".{format}":
        raise ConfigError(f"file={str(file)!r} is not allowed with format={format!r}: it must end in '.{format}'.")
    if opset is not None:
        if format != "onnx":
            raise ConfigError(f"opset={opset!r} is not allowed with format={format!r}: only ONNX files have one.")
        check_int("opset", opset, low=to_onnx.LOWEST_OPSET)
    needed = chosen.packages + (chosen.check_packages if check else ())
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise MissingPackageError(
            f'format={format!r} needs {", ".join(missing)}, not installed here: pip install "moezoo[export]".'
        )
    return chosen
