"""``export_model``: trace, write, check, and only then put the file in its place."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from moezoo.backbones.inputs import example_shape
from moezoo.errors import ConfigError, ExportError, InputError, MoeZooError
from moezoo.export.formats import check_target
from moezoo.export.parity import Parity, compare, plain_images
from moezoo.export.plain import plain
from moezoo.export.sidecar import describe, sidecar_text
from moezoo.export.trace import trace
from moezoo.hub.files import check_writable, move_into_place, output_errors, seal
from moezoo.hub.state import unwrapped
from moezoo.measure.calling import device_of
from moezoo.moe.checks import check_int
from moezoo.moe.modes import evaluating


@dataclass(frozen=True)
class Exported:
    """What :func:`export_model` wrote."""

    file: Path
    sidecar: Path
    """The JSON beside it."""
    parity: Parity | None
    """``None`` without a check."""


def export_model(
    model: nn.Module,
    file: str | Path,
    *,
    format: str = "onnx",
    input_size: Sequence[int] | None = None,
    dynamic_batch: bool = True,
    batch_size: int | None = None,
    opset: int | None = None,
    check: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Exported:
    """Write ``model`` in evaluation mode to ``file``, and a JSON that describes it to ``<file>.json``.

    The model is left as it was. A file that fails the check is not kept, and one that was there before is then
    untouched.

    Args:
        model: Takes one float32 batch of images. Of a mapping that it answers with, the logits are exported, or the
            embeddings where there are none. ``torch.compile`` and data-parallel wrappers are seen through.
        file: Ends in ``.onnx`` or ``.pt2``; its folder is created if need be.
        format: ``onnx``, or ``pt2``: read it by ``torch.export.load(file).module()``, without moezoo.
        input_size: (C, H, W), or whatever follows the batch; ``None`` takes ``model.pretrained_cfg``'s.
        dynamic_batch: Let the file take any number of images from 1 on.
        batch_size: Of a file without ``dynamic_batch``; ``None`` means 1.
        opset: Version of ONNX's operators; ``None`` leaves it to torch.
        check: Run the file on images that reach experts which tracing did not, and compare with the model.
        progress: Called with each step's name as it begins: ``trace``, ``write``, ``check``.

    Raises:
        ConfigError: An argument is not allowed.
        InputError: The model is not in float32, or does not say its input size.
        MissingPackageError: A package for the format is not installed.
        ExportError: The model cannot be traced or written, or the file does not compute what the model does.
        OutputError: The file cannot be written.
    """
    chosen = check_target(file, format, opset=opset, check=check)
    if dynamic_batch and batch_size is not None:
        raise ConfigError(f"batch_size={batch_size!r} has no meaning with dynamic_batch=True.")
    # A dimension of 1 would be taken for a constant.
    traced_size = 2 if dynamic_batch else check_int("batch_size", 1 if batch_size is None else batch_size, low=1)
    model, report = unwrapped(model), progress or (lambda step: None)
    _check_float32(model)
    images = torch.zeros(traced_size, *_input_size(model, input_size), device=device_of(model))
    target = Path(file)
    folder = check_writable(target.parent)
    with (
        evaluating(model),
        output_errors(target),
        tempfile.TemporaryDirectory(dir=folder, prefix=".moezoo-export-") as staging,
    ):
        draft = Path(staging) / target.name
        report("trace")
        with _explained("traced"):
            images = plain_images(model, images)
            answering = plain(model, images)
            program = trace(answering, images, dynamic_batch=dynamic_batch)
        report("write")
        with _explained(f"written as {format}"):
            chosen.write(program, draft, opset)
        parity = None
        if check:
            report("check")
            with _explained("run"):
                run = chosen.load(draft)
                parity = compare(answering, run, images, (3, 1) if dynamic_batch else (traced_size,), chosen.limit)
        files = sorted(Path(staging).iterdir(), key=lambda path: path == draft)  # a reader of the file finds the rest
        text = sidecar_text(describe(model, files, format, images, dynamic_batch, parity))
        sidecar = Path(staging) / f"{target.name}.json"
        sidecar.write_text(text, encoding="utf-8")
        for path in (*files, sidecar):
            seal(path)
            move_into_place(path, folder / path.name)
    return Exported(target, target.with_name(sidecar.name), parity)


def _check_float32(model: nn.Module) -> None:
    wrong = {str(p.dtype) for p in (*model.parameters(), *model.buffers()) if p.is_floating_point()} - {"torch.float32"}
    if wrong:
        raise InputError(f"the model holds {', '.join(sorted(wrong))}; only float32 is exported: call model.float().")


def _input_size(model: nn.Module, given: Sequence[int] | None) -> tuple[int, ...]:
    if given is not None:
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise ConfigError(f"input_size={given!r} is not allowed: it must be (channels, height, width).")
        return tuple(check_int("input_size", side, low=1) for side in given)
    cfg = getattr(model, "pretrained_cfg", None)
    size = cfg.get("input_size") if isinstance(cfg, Mapping) else None
    if not size:
        raise InputError(
            f"{type(model).__name__} has no pretrained_cfg that says its input_size; pass input_size=, as "
            "(channels, height, width)."
        )
    return example_shape(model)


@contextmanager
def _explained(step: str) -> Iterator[None]:
    """Other libraries' errors as one of ours: its root cause, which says more than what it was wrapped in."""
    try:
        yield
    except (MoeZooError, OSError):
        raise
    except Exception as error:
        root: BaseException = error
        while (inner := root.__cause__) is not None:
            root = inner
        text = " ".join(str(root).split())
        raise ExportError(f"the model cannot be {step}: {type(root).__name__}: {text[:600]}") from error
