"""Small data sets in their true forms on disk, written file by file as the published ones are.

None of them is the set it is shaped like: pixels are noise with a mean of the label's own.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR10, CIFAR100


def photo(seed, size=(24, 20), mode="RGB"):
    """Noise that is unlike that of every other seed."""
    bands = len(mode) if mode != "L" else 1
    pixels = np.random.RandomState(seed).randint(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze(-1) if bands == 1 else pixels)


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def cifar(root, source=CIFAR10, classes=10, per_file=30):
    """Pickled batches as published: planar RGB bytes and a list of labels. Returns a class that knows their md5 sums.

    Below the upper quarter the pixels of channel c are all ``label * 2 + c``.
    """
    folder = root / source.base_folder
    folder.mkdir(parents=True)
    names = [file for file, _ in [*source.train_list, *source.test_list]]
    fine = source is CIFAR100
    for number, name in enumerate(names):
        labels = [i % classes for i in range(per_file if not fine else 3 * classes)]
        planes = np.array([[[label * 2 + c] * 1024 for c in range(3)] for label in labels], dtype=np.uint8)
        planes[:, 0, :256] = number * 30  # the upper quarter differs from image to image and from file to file
        planes[:, 1, :256] = (np.arange(len(labels)) % 32 * 8)[:, None]
        planes[:, 2, :256] = (np.arange(len(labels)) // 32 * 16)[:, None]
        entry = {"data": planes.reshape(len(labels), 3072), ("fine_labels" if fine else "labels"): labels}
        (folder / name).write_bytes(pickle.dumps(entry, protocol=2))
    meta = {source.meta["key"]: [f"class {i}" for i in range(classes)]}
    (folder / source.meta["filename"]).write_bytes(pickle.dumps(meta, protocol=2))

    def summed(file):
        return hashlib.md5((folder / file).read_bytes()).hexdigest()

    class TinyFormat(source):
        """The real reader, told the md5 sums of the files above."""

        train_list = [[file, summed(file)] for file, _ in source.train_list]  # noqa: RUF012
        test_list = [[file, summed(file)] for file, _ in source.test_list]  # noqa: RUF012
        meta = {**source.meta, "md5": summed(source.meta["filename"])}  # noqa: RUF012

    return TinyFormat


def idx(array):
    """The idx format: a magic number, the sizes, the bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def fashion_mnist(root, count=40, packed=False):
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for number, prefix in enumerate(("train", "t10k")):
        labels = np.arange(count) % 10
        images = np.random.RandomState(number).randint(0, 256, (count, 28, 28))
        images[:, 0, 0] = labels
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(array)
            name = raw / f"{prefix}-{kind}-ubyte{'.gz' if packed else ''}"
            name.write_bytes(gzip.compress(data) if packed else data)
    return raw


def image_folder(root, parts=("train", "val", "test"), classes=("cat", "dog"), count=8):
    seed = 0
    for part in parts:
        for name in classes:
            for number in range(count):
                write(root / part / name / f"{number}.png", photo(seed))
                seed += 1
    return root


def hf(root, count=12):
    """Written by save_to_disk."""
    import datasets

    def rows(start):
        buffers = [io.BytesIO() for _ in range(count)]
        for i, buffer in enumerate(buffers):
            photo(start + i).save(buffer, "PNG")
        return {
            "image": [{"bytes": buffer.getvalue(), "path": None} for buffer in buffers],
            "label": [i % 3 for i in range(count)],
        }

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
    tables = {
        part: datasets.Dataset.from_dict(rows(start), features=features)
        for part, start in (("train", 0), ("validation", 100), ("test", 200))
    }
    datasets.DatasetDict(tables).save_to_disk(str(root))
    return root


FLICKR = {
    f"{number}_ab.jpg": tuple(f'Photo {number} says, in sentence {i}, "hello" .' for i in range(5))
    for number in range(20)
}


def flickr8k(root, layout="original", lists=True, captions=FLICKR):
    """``original``, ``token`` or ``kaggle``; the lists take 12, 4 and 4 images."""
    folder = root / {"original": "Flicker8k_Dataset", "token": "images", "kaggle": "Images"}[layout]
    for number, name in enumerate(FLICKR):
        write(folder / name, photo(number))
    text = root / "Flickr8k_text" if layout == "original" else root
    text.mkdir(parents=True, exist_ok=True)
    if layout == "kaggle":
        quoted = {name: [s.replace('"', '""') for s in sentences] for name, sentences in captions.items()}
        lines = ["image,caption", *(f'{name},"{s}"' for name, sentences in quoted.items() for s in sentences)]
        (text / "captions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        lines = [f"{name}#{i}\t{s}" for name, sentences in captions.items() for i, s in enumerate(sentences)]
        (text / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if lists:
        names = list(FLICKR)
        for part, chosen in (("train", names[:12]), ("dev", names[12:16]), ("test", names[16:])):
            (text / f"Flickr_8k.{part}Images.txt").write_text("\n".join(chosen) + "\n", encoding="utf-8")
    return root


def market1501(root):
    folder = root / "Market-1501-v15.09.15"
    seed = 0
    for part, identities in (
        ("bounding_box_train", (2, 7, 11)),
        ("query", (3, 5)),
        ("bounding_box_test", (-1, 0, 3, 5)),
    ):
        for identity in identities:
            for camera in (1, 2) if part != "query" else (1,):
                name = f"{identity if identity < 0 else f'{identity:04d}'}_c{camera}s1_{seed:06d}_00.jpg"
                write(folder / part / name, photo(seed, (16, 32)))
                seed += 1
    (folder / "bounding_box_test" / "Thumbs.db").write_bytes(b"not an image")
    return folder


def rgbnt201(root):
    folder, seed = root / "RGBNT201", 0
    for part, identities in (("train_171", (1, 4, 258)), ("test", (9, 10))):
        for identity in identities:
            for camera in (1, 2):
                for kind in ("RGB", "NI", "TI"):
                    write(folder / part / kind / f"{identity:06d}_cam{camera}_0_00.jpg", photo(seed, (16, 32)))
                    seed += 1
    return folder


def rgbnt100(root):
    folder, seed = root / "RGBNT100" / "rgbir", 0
    for part, identities in (("bounding_box_train", (1, 2)), ("query", (3,)), ("bounding_box_test", (3, 4))):
        for identity in identities:
            for camera in (1, 8) if part != "query" else (2,):
                write(folder / part / f"{identity:04d}_c{camera}_{seed:04d}.jpg", photo(seed, (96, 16)))
                seed += 1
    return folder


def msvr310(root):
    folder, seed = root / "MSVR310", 0
    for part, identities in (("bounding_box_train", (1, 2)), ("query3", (3,)), ("bounding_box_test", (3, 4))):
        for identity in identities:
            for scene, camera in ((1, 0), (2, 5)) if part != "query3" else ((3, 1),):
                for kind in ("vis", "ni", "th"):
                    name = f"{identity:04d}_s{scene:03d}_v{camera}_{seed // 3:03d}.jpg"
                    write(folder / part / f"{identity:04d}" / kind / name, photo(seed, (32, 16)))
                    seed += 1
    return folder


def few_digits(monkeypatch, count=240):
    """scikit-learn's digits, but for these last ones: what only has to run is through the sooner."""
    from sklearn import datasets

    raw = datasets.load_digits()
    few = type(raw)(**{**raw, **{name: raw[name][-count:] for name in ("images", "data", "target")}})
    monkeypatch.setattr(datasets, "load_digits", lambda: few)


def small_sets(root: Path):
    """Every registered data set as (name, options), its folder written below ``root``; CIFAR is left to a subclass."""
    fashion_mnist(root / "fashion")
    image_folder(root / "folder")
    hf(root / "hf")
    flickr8k(root / "flickr")
    few = {"train_images": 12, "val_images": 5, "test_images": 5}
    size = {"input_size": (3, 16, 16)}
    return {
        "digits": size,
        "fashion_mnist": {"root": root / "fashion", **size},
        "image_folder": {"root": root / "folder", **size},
        "hf": {"path": root / "hf", **size},
        "flickr8k": {"root": root / "flickr", **size},
        "market1501": {"root": market1501(root / "market").parent, **size},
        "rgbnt201": {"root": rgbnt201(root / "201").parent, **size},
        "rgbnt100": {"root": rgbnt100(root / "100").parent.parent, **size},
        "msvr310": {"root": msvr310(root / "310"), **size},
        "cluttered_digits": {**few, "input_size": (3, 64, 64)},
        "shapes": {**few, **size},
        "trispectral": {"train_identities": 3, "test_identities": 2, "cameras": 2, "images_per_camera": 2, **size},
    }
