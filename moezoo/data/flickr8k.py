"""Flickr8k in the three forms it is passed around: the original archives, the token file, Kaggle's."""

from __future__ import annotations

import csv
import io
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from moezoo.data.captioned import CaptionedImages, CaptionedSplits
from moezoo.data.dividing import take_out
from moezoo.data.images import EXTENSIONS
from moezoo.data.options import HELD_OUT, IMAGE_INPUT, Augmentation, HeldOut, ImageInput
from moezoo.data.skipped import Skipped
from moezoo.data.transforms import Prepare
from moezoo.errors import DataError

logger = logging.getLogger(__name__)

IMAGE_FOLDERS = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images")
"""The first name is misspelt in the original archive."""
TOKEN_FILES = ("Flickr8k_text/Flickr8k.token.txt", "Flickr8k.token.txt")
CSV_FILES = ("captions.txt", "captions.csv")
LISTS = {"train": "Flickr_8k.trainImages.txt", "val": "Flickr_8k.devImages.txt", "test": "Flickr_8k.testImages.txt"}
WITHOUT_MIRROR = Augmentation(hflip=0.0)


def load_flickr8k(
    *,
    root: str,
    held_out: HeldOut = HELD_OUT,
    input: ImageInput = IMAGE_INPUT,
    augmentation: Augmentation = WITHOUT_MIRROR,
) -> CaptionedSplits:
    """8,000 photographs with five sentences each.

    The captions are ``Flickr8k.token.txt`` (or in ``Flickr8k_text/``) or Kaggle's ``captions.txt``. With the lists
    ``Flickr_8k.{train,dev,test}Images.txt`` beside them the parts are the published ones, else they are drawn by image.

    Args:
        root: Folder that holds the captions and the folder of images.
        held_out: How the parts are drawn where the lists are not there.
        input: What the model takes.
        augmentation: For training images. Not mirrored by default: sentences say left and right.

    Raises:
        DataError: Captions, images or one of the lists are missing, or a line cannot be read.
    """
    folder = Path(root).expanduser()
    file = _find(folder, (*TOKEN_FILES, *CSV_FILES), "captions", Path.is_file)
    images = _files(_find(folder, IMAGE_FOLDERS, "images", Path.is_dir))
    spoken = read_csv_captions(file) if file.suffix == ".csv" or file.name == "captions.txt" else read_tokens(file)
    absent = [name for name in spoken if _key(name) not in images]
    left_out = [Skipped(name, "is listed with captions, but there is no such image") for name in absent]
    captions = {_key(name): sentences for name, sentences in spoken.items() if _key(name) in images}
    if not captions:
        raise DataError(f"flickr8k: none of the {len(spoken)} images that {file} lists is in {folder}")
    lists = {part: file.parent / name for part, name in LISTS.items()}
    if any(path.is_file() for path in lists.values()):
        parts, more = _listed(lists, captions)
        left_out += more
    else:
        parts = _drawn(sorted(captions), held_out)
        logger.info("%s has no lists of parts: drawn by image (split_seed=%d)", folder, held_out.split_seed)
    if left_out:
        logger.warning("%s: %d images are left out, such as %s", folder, len(left_out), left_out[0].path)
    data = {
        part: CaptionedImages(
            [str(images[name]) for name in names],
            [captions[name] for name in names],
            Prepare(input, augmentation if part == "train" else None),
            skip_unreadable=part == "train",
        )
        for part, names in parts.items()
    }
    return CaptionedSplits("flickr8k", **data, mean=input.channel_mean, std=input.channel_std, left_out=tuple(left_out))


def read_tokens(path: Path) -> dict[str, tuple[str, ...]]:
    """Lines ``name.jpg#0<TAB>sentence`` as name to sentences, in the order of the file.

    Raises:
        DataError: A line has another form, or the file is not UTF-8.
    """
    found: dict[str, list[str]] = {}
    for number, line in enumerate(_lines(path), start=1):
        key, tab, sentence = line.partition("\t")
        name, sign, _ = key.rpartition("#")
        if not tab or not sign:
            raise DataError(f"{path}, line {number}: 'image.jpg#0<TAB>sentence' is needed, got {line[:80]!r}")
        found.setdefault(name.strip(), []).append(sentence)
    return _with_words(found)


def read_csv_captions(path: Path) -> dict[str, tuple[str, ...]]:
    """A CSV file with the columns ``image`` and ``caption`` as name to sentences, in the order of the file.

    Raises:
        DataError: A column is missing, a line has more or fewer cells, or the file is not UTF-8.
    """
    found: dict[str, list[str]] = {}
    try:
        rows = csv.DictReader(io.StringIO(_text(path), newline=""), skipinitialspace=True)
        columns = [(name or "").strip() for name in rows.fieldnames or ()]
        if not {"image", "caption"} <= set(columns):
            raise DataError(f"{path}: the columns 'image' and 'caption' are needed, got {', '.join(columns) or 'none'}")
        rows.fieldnames = columns
        for row in rows:
            if row["image"] is None or row["caption"] is None or None in row:
                raise DataError(f"{path}, line {rows.line_num}: not as many cells as the header has columns")
            found.setdefault(row["image"].strip(), []).append(row["caption"])
    except csv.Error as error:
        raise DataError(f"{path}: no CSV file: {error}") from error
    return _with_words(found)


def _with_words(found: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Sentences with single spaces, in composed Unicode; empty ones are none."""
    clean = {
        name: tuple(unicodedata.normalize("NFC", " ".join(s.split())) for s in sentences if s.strip())
        for name, sentences in found.items()
    }
    return {name: sentences for name, sentences in clean.items() if sentences}


def _listed(lists: dict[str, Path], captions: dict[str, tuple[str, ...]]) -> tuple[dict[str, list[str]], list[Skipped]]:
    missing = [str(path) for path in lists.values() if not path.is_file()]
    if missing:
        raise DataError(f"flickr8k: some of the lists of parts are missing: {', '.join(missing)}")
    parts: dict[str, list[str]] = {}
    place: dict[str, str] = {}
    left_out = []
    for part, path in lists.items():
        parts[part] = []
        for name in dict.fromkeys(line.strip() for line in _lines(path)):
            key = _key(name)
            if key in place:
                raise DataError(f"flickr8k: {name} is in two parts, {place[key]} and {part} ({path})")
            if key not in captions:
                left_out.append(Skipped(name, f"is in {path.name}, but without an image or captions"))
                continue
            place[key] = part
            parts[part].append(key)
        if not parts[part]:
            raise DataError(f"flickr8k: none of the images that {path} lists is there with captions")
    left_out += [Skipped(name, "is in none of the published parts") for name in captions if name not in place]
    return parts, left_out


def _drawn(names: list[str], held_out: HeldOut) -> dict[str, list[str]]:
    """Parts drawn by image, so that no image has sentences in two of them."""
    everything = np.zeros(len(names), dtype=np.int64)  # one class: nothing to stratify by
    rest, test = take_out(everything, held_out.test_fraction, held_out.split_seed)
    share = held_out.val_fraction * len(names) / max(len(rest), 1)
    kept, val = take_out(everything[rest], min(share, 1), held_out.split_seed)
    parts = {"train": rest[kept], "val": rest[val], "test": test}
    if not all(map(len, parts.values())):
        raise DataError(f"flickr8k: {len(names)} images are too few to be divided into three parts")
    return {part: [names[i] for i in chosen] for part, chosen in parts.items()}


def _find(folder: Path, candidates: Iterable[str], what: str, exists) -> Path:
    paths = [folder / name for name in candidates]
    found = next((path for path in paths if exists(path)), None)
    if found is None:
        raise DataError(f"flickr8k: no {what} under root={str(folder)!r}; looked for: {', '.join(map(str, paths))}")
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Image files by a key that does not depend on how the file system spells accents."""
    nested = folder / "Flicker8k_Dataset"  # the archive, unpacked into a folder of its own name
    place = nested if nested.is_dir() else folder
    return {_key(path.name): path for path in sorted(place.iterdir()) if path.suffix.lower() in EXTENSIONS}


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _text(path: Path) -> str:
    """UTF-8 with or without a byte order mark, whatever the locale says."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from None


def _lines(path: Path) -> list[str]:
    """Lines that hold something; splitlines() would also break a sentence at rare Unicode characters."""
    return [line.rstrip("\r") for line in _text(path).split("\n") if line.strip()]
