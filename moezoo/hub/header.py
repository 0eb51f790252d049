"""Comparing the header of a safetensors file with a model, before any memory is spent on either."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from moezoo.errors import ConfigError, WeightsCorrupted, WeightsMismatch, WeightsUnavailable
from moezoo.hub.state import shown

Shapes = Mapping[str, tuple[tuple[int, ...], torch.dtype | str]]
"""Tensor name to its shape and dtype; a dtype torch does not know stays the word of the file."""
Resized = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Tensor name to its shape in the file and in the model, where they differ."""

_DTYPES: dict[str, torch.dtype] = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
}
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes that load into each other by rounding; every other difference is a mismatch."""


def check_suffix(path: str | os.PathLike[str]) -> Path:
    """``path`` if its name says safetensors; anything else is never opened, since it may be a pickle."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"{str(path)!r} is not a .safetensors file, and moezoo reads nothing else: a pickle can run code when it "
            f"is opened. 'moezoo convert pth {path}' writes its tensors as safetensors without running anything."
        )
    return path


def header_shapes(path: str | os.PathLike[str]) -> dict[str, tuple[tuple[int, ...], torch.dtype | str]]:
    """The tensors a file says it holds; no tensor is read.

    Raises:
        ConfigError: The name does not end in ``.safetensors``.
        WeightsUnavailable: There is no such file.
        WeightsCorrupted: The file is cut, padded, or no safetensors file at all.
    """
    path = check_suffix(path)
    if not path.is_file():
        raise WeightsUnavailable(f"there is no weights file {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return {
                name: (tuple(part.get_shape()), _DTYPES.get(part.get_dtype(), part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise WeightsCorrupted(f"{str(path)!r} is not a sound safetensors file: {error}") from None


def model_shapes(model: nn.Module) -> dict[str, tuple[tuple[int, ...], torch.dtype | str]]:
    """The same for a model, which may live on the meta device."""
    state = model.state_dict()
    return {name: (tuple(value.shape), value.dtype) for name, value in state.items() if isinstance(value, torch.Tensor)}


def compare(
    model: Shapes,
    header: Shapes,
    source: object = "the file",
    *,
    keep: Collection[str] = (),
    hint: Callable[[Resized], str] | None = None,
) -> None:
    """Raise one :class:`WeightsMismatch` that lists every way in which the file does not fit the model.

    Args:
        model: From :func:`model_shapes`.
        header: From :func:`header_shapes`.
        source: What to call the file in the message.
        keep: Names whose tensors stay the model's own, whatever the file says about them.
        hint: Says which option is behind tensors that differ in shape: a model's own ``mismatch_hint``.
    """
    missing = [name for name in model if name not in header and name not in keep]
    unexpected = [name for name in header if name not in model and name not in keep]
    shapes, dtypes = [], []
    resized: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for name in model:
        if name in header and name not in keep:
            (shape, dtype), (file_shape, file_dtype) = model[name], header[name]
            if shape != file_shape:
                resized[name] = file_shape, shape
                shapes.append(f"{name}: file {file_shape} vs model {shape}")
            if dtype != file_dtype and not (dtype in FLOATS and file_dtype in FLOATS):
                dtypes.append(f"{name}: file {_word(file_dtype)} vs model {_word(dtype)}")
    kinds = {
        "missing in the file": missing,
        "unexpected in the file": unexpected,
        "shape": shapes,
        "dtype": dtypes,
    }
    parts = [f"{kind} ({len(items)}): {shown(items)}" for kind, items in kinds.items() if items]
    if parts:
        hints = (hint(resized) if hint else "") + _hint(resized) + _int8_hint(missing, unexpected)
        raise WeightsMismatch(f"{source} does not fit the model. " + "; ".join(parts) + "." + hints)


def check_header(model: nn.Module, path: str | os.PathLike[str], *, keep: Collection[str] = ()) -> None:
    """:func:`compare` a model (meta or real) with a file."""
    compare(model_shapes(model), header_shapes(path), path, keep=keep, hint=own_hint(model))


def own_hint(model: nn.Module) -> Callable[[Resized], str] | None:
    """The model's ``mismatch_hint``, where it has one."""
    return getattr(model, "mismatch_hint", None)


def _int8_hint(missing: Collection[str], unexpected: Collection[str]) -> str:
    """What to do where one of the two is quantised and the other is not."""
    if any(name.endswith("_int8") and name.removesuffix("_int8") in missing for name in unexpected):
        return (
            " The file is of a model quantised to int8: load the folder it was saved in, by "
            "moezoo.create_model('local-dir:…', pretrained=True)."
        )
    if any(name.endswith("_int8") and name.removesuffix("_int8") in unexpected for name in missing):
        return " The model is quantised to int8 and the file is not: load it before quantising."
    return ""


def _word(dtype: torch.dtype | str) -> str:
    return str(dtype).removeprefix("torch.")


def _hint(resized: Resized) -> str:
    """Name the option behind the differences when all of them change the same number in the same way."""
    expert = {name: pair for name, pair in resized.items() if "expert" in name or "router" in name}
    # Of a list of modules each has its own.
    stacked = [pair for name, pair in expert.items() if ".members." not in name]
    firsts = {(a[0], b[0]) for a, b in stacked if a and b and a[1:] == b[1:]}
    hints = []
    if len(firsts) == 1:
        old, new = firsts.pop()
        hints.append(f" The file was saved with num_experts={old}, the model has num_experts={new}.")
    other = {name: pair for name, pair in resized.items() if name not in expert}
    if other and len(other) <= 2 and all(a[1:] == b[1:] for a, b in other.values()):
        pairs = {(a[0], b[0]) for a, b in other.values() if a and b}
        if len(pairs) == 1:
            old, new = pairs.pop()
            hints.append(f" The file's head has {old} outputs, the model's {new}: look at num_classes.")
    return "".join(hints)
