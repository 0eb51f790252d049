"""Files that show the same in several modalities: where they lie, and how they become one model input."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor, nn

from moezoo.data.images import read_image
from moezoo.data.options import PlainInput
from moezoo.data.reid.rgbnt100 import read_strip
from moezoo.data.reid.scan import SPECTRA
from moezoo.data.reid.transforms import ReidPrepare
from moezoo.errors import ConfigError, DataError, UnreadableImage
from moezoo.eval.image_paths import LIST, image_paths

FOLDERS = (("RGB", "NI", "TI"), ("vis", "ni", "th"))
"""How RGBNT201 and MSVR310 call the folders of RGB, near and thermal infrared."""


def sighting_paths(
    inputs: Sequence[str], modalities: Sequence[str], *, recursive: bool = False, lines: BinaryIO | None = None
) -> Iterator[str]:
    """One file of every sighting behind ``inputs``: of a folder with a folder for each modality (``RGB``, ``NI``,
    ``TI``), that of the first modality which has it.

    Args:
        inputs: As of :func:`~moezoo.eval.image_paths.image_paths`.
        modalities: The model's.
        recursive: Search the folders in a folder too.
        lines: Paths, one a line, for ``-``.

    Raises:
        DataError: A folder cannot be read or holds no image.
    """
    for given in inputs:
        if len(modalities) == 1 or given == LIST or not os.path.isdir(given):
            yield from image_paths([given], recursive=recursive, lines=lines)
            continue
        found = _search(given, tuple(modalities), recursive)
        first = next(found, None)
        if first is None:
            raise DataError(
                f"folder {given!r} holds no image, and no folders {', '.join(_names(modalities)[-1])} with images"
                + ("" if recursive else "; folders in it were left aside (--recursive)")
            )
        yield first
        yield from found


def _search(folder: str, modalities: tuple[str, ...], recursive: bool) -> Iterator[str]:
    try:
        entries = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.is_symlink())
    except OSError as error:
        raise DataError(f"folder {folder!r} cannot be read: {error.strerror or error}") from None
    kinds = next((names for names in _names(modalities) if len(set(names) & set(entries)) > 1), None)
    if kinds is not None:
        paths: dict[str, str] = {}
        for kind in kinds:
            if kind in entries:
                for path in _files(os.path.join(folder, kind)):
                    paths.setdefault(os.path.basename(path), path)
        yield from (paths[name] for name in sorted(paths))
        return
    yield from _files(folder)
    for name in entries if recursive else ():
        yield from _search(os.path.join(folder, name), modalities, recursive)


def _files(folder: str) -> Iterator[str]:
    try:
        yield from image_paths([folder])
    except DataError:  # no image lies there; of a folder that is asked for, the caller says so
        return


def _names(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """What the folders of the modalities may be called."""
    return [tuple(modalities), *(FOLDERS if tuple(modalities) == SPECTRA else ())]


def siblings(path: str, modalities: Sequence[str]) -> list[str] | None:
    """The files of all modalities, there or not, of one that lies in a folder called after its own; else ``None``."""
    folder, name = os.path.split(path)
    above, kind = os.path.split(folder)
    found = [[os.path.join(above, each, name) for each in names] for names in _names(modalities) if kind in names]
    # ``RGB`` is what more than one set calls its first folder: those are meant whose files are there.
    return max(found, key=lambda paths: sum(map(os.path.isfile, paths)), default=None)


class SightingReader:
    """From a file of a sighting to (M, C, H, W) images and (M,) bool, which of them are there.

    A picture of RGBNT100's form is cut in three; any other that has no siblings is of the first modality alone.

    Args:
        model: Says its ``modalities`` and, by ``pretrained_cfg``, how images are prepared.
        allow_missing: Take a sighting without all modalities; the images of those are zeros.
    """

    def __init__(self, model: nn.Module, *, allow_missing: bool = False):
        self.modalities: tuple[str, ...] = tuple(model.modalities)  # type: ignore[arg-type]
        self.allow_missing = allow_missing
        cfg = getattr(model, "pretrained_cfg", None)
        if not cfg:
            raise ConfigError(f"{type(model).__name__} has no pretrained_cfg that says how its images are prepared")
        fields = {key: tuple(cfg[key]) for key in ("input_size", "mean", "std")}
        self.prepare = ReidPrepare(PlainInput(**fields, interpolation=cfg.get("interpolation") or "bicubic"))

    def __call__(self, path: str) -> tuple[Tensor, Tensor]:
        pictures = self._pictures(path)
        missing = [name for name, picture in zip(self.modalities, pictures, strict=True) if picture is None]
        if missing and not self.allow_missing:
            raise UnreadableImage(path, f"is not there in every modality: {', '.join(missing)} missing")
        present = torch.tensor([picture is not None for picture in pictures])
        there = self.prepare([picture for picture in pictures if picture is not None])
        images = there.new_zeros((len(pictures), *there.shape[1:]))
        images[present] = there
        return images, present

    def _pictures(self, path: str) -> list[Image.Image | None]:
        paths = siblings(path, self.modalities) if len(self.modalities) > 1 else None
        if paths is not None:
            there = [read_image(each) if os.path.isfile(each) else None for each in paths]
            return there if any(each is not None for each in there) else [read_image(path)]
        picture = read_image(path)
        width, height = picture.size
        if len(self.modalities) == 3 and width == 6 * height:
            return [*read_strip(path)]
        return [picture, *[None] * (len(self.modalities) - 1)]
