"""Flickr8k in every form it is passed around, and captions written on any machine."""

import logging
import os
import subprocess
import sys
import unicodedata

import pytest
import torch
from dataset_folders import FLICKR, flickr8k, photo, write
from torch.utils.data import DataLoader

from moezoo.data import Skipped, load_dataset
from moezoo.data.flickr8k import read_csv_captions, read_tokens
from moezoo.errors import DataError, UnreadableImage

SMALL = {"input_size": (3, 16, 16)}


def load(root, **options):
    return load_dataset("flickr8k", root=root, **SMALL, **options)


def contents(splits):
    """Part to image name to sentences."""
    return {
        name: {part.describe(i).rpartition("/")[2]: part.captions(i) for i in range(len(part))}
        for name, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
    }


@pytest.mark.parametrize("layout", ["original", "token", "kaggle"])
def test_each_layout_gives_the_same_images_sentences_and_parts(tmp_path, layout):
    splits = load(flickr8k(tmp_path, layout))
    parts = contents(splits)
    assert {name: len(part) for name, part in parts.items()} == {"train": 12, "val": 4, "test": 4}
    assert {**parts["train"], **parts["val"], **parts["test"]} == FLICKR
    assert list(parts["val"]) == list(FLICKR)[12:16]
    image, captions = splits.train[3]
    assert image.shape == (3, 16, 16)
    assert captions == FLICKR["3_ab.jpg"]
    assert splits.left_out == ()


def test_without_lists_parts_are_drawn_by_image_and_seed(tmp_path, caplog):
    root = flickr8k(tmp_path, "kaggle", lists=False)
    with caplog.at_level(logging.INFO, logger="moezoo"):
        one = contents(load(root))
    assert "drawn by image (split_seed=0)" in caplog.text
    assert {name: len(part) for name, part in one.items()} == {"train": 14, "val": 2, "test": 4}
    assert {**one["train"], **one["val"], **one["test"]} == FLICKR  # each image once, with all its sentences
    assert contents(load(root)) == one
    assert contents(load(root, split_seed=1)) != one


def test_listed_images_that_are_absent_are_left_out_and_counted(tmp_path, caplog):
    captions = {**FLICKR, "2258277193_586949ec62.jpg.1": ("There is no such file .",)}
    root = flickr8k(tmp_path, captions=captions)
    (root / "Flicker8k_Dataset" / "5_ab.jpg").unlink()
    lists = root / "Flickr8k_text" / "Flickr_8k.testImages.txt"
    lists.write_text(lists.read_text().replace("19_ab.jpg\n", ""))
    splits = load(root)
    assert [entry.path for entry in splits.left_out] == [
        "5_ab.jpg",
        "2258277193_586949ec62.jpg.1",
        "5_ab.jpg",
        "19_ab.jpg",
    ]
    assert "4 images are left out, such as 5_ab.jpg" in caplog.text
    assert [len(splits.train), len(splits.val), len(splits.test)] == [11, 4, 3]


def test_captions_are_the_same_with_any_line_ends_marks_and_spelling_of_accents(tmp_path):
    composed = unicodedata.normalize("NFC", "é a.jpg")
    want = {composed: ("Café à   la plage .", 'He says "olé" , twice .'), "b.jpg": ("Ein Hund \u2028 läuft .",)}
    clean = {name: tuple(" ".join(s.split()) for s in sentences) for name, sentences in want.items()}
    for mark in ("", "\ufeff"):
        for end in ("\n", "\r\n"):
            for form in ("NFC", "NFD"):
                tokens = [f"{name}#{i}\t{s}" for name, sentences in want.items() for i, s in enumerate(sentences)]
                text = mark + unicodedata.normalize(form, end.join(tokens)) + end + end
                (tmp_path / "t.txt").write_bytes(text.encode())
                found = {unicodedata.normalize("NFC", k): v for k, v in read_tokens(tmp_path / "t.txt").items()}
                assert found == clean
                quoted = [(k, s.replace('"', '""')) for k, sentences in want.items() for s in sentences]
                text = mark + end.join(["image,caption", *(f'{k},"{s}"' for k, s in quoted)]) + end
                (tmp_path / "c.txt").write_bytes(unicodedata.normalize(form, text).encode())
                found = {unicodedata.normalize("NFC", k): v for k, v in read_csv_captions(tmp_path / "c.txt").items()}
                assert found == clean


def test_file_names_in_any_script_and_spelling_are_found(tmp_path):
    root = tmp_path / "Bilder für später"
    names = ["é a.jpg", "кот 1.jpg", "图.jpg", "n" * 180 + ".jpg", "plain.jpg"]
    for i, name in enumerate(names):
        write(root / "Images" / unicodedata.normalize("NFD", name), photo(i))
    rows = [f"{unicodedata.normalize('NFC', name)},sentence {i}" for i, name in enumerate(names)]
    (root / "captions.txt").write_text("\n".join(["image,caption", *rows]), encoding="utf-8")
    splits = load(root)
    assert sum(len(part) for part in (splits.train, splits.val, splits.test)) == 5
    assert splits.test[0][0].shape == (3, 16, 16)


def test_photographs_of_any_size_are_batched_with_their_own_sentences_wherever_one_stands(tmp_path, monkeypatch):
    root, sizes = tmp_path / "set", [(24, 20), (20, 40), (60, 18), (16, 16), (33, 31)]
    for i, size in enumerate(sizes):
        write(root / "Images" / f"{i}.jpg", photo(i, size))
    rows = [f"{i}.jpg,sentence {j} of {i}" for i in range(5) for j in range(5)]
    (root / "captions.txt").write_text("\n".join(["image,caption", *rows]), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    splits = load("set")
    for part in (splits.train, splits.val, splits.test):
        images, captions = next(iter(DataLoader(part, len(part))))
        assert images.shape == (len(part), 3, 16, 16)
        names = [part.describe(i).rpartition("/")[2].removesuffix(".jpg") for i in range(len(part))]
        for j, column in enumerate(captions):
            assert list(column) == [f"sentence {j} of {name}" for name in names]
    reads = {splits.train[0][0].numpy().tobytes() for _ in range(20)}
    assert len(reads) > 1  # cut at random in training
    plain = load(root, augment=False).train[0][0]
    assert torch.equal(plain, load(root, augment=False).train[0][0])


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda root: (root / "captions.txt").unlink(),
            r"no captions under root=.*Flickr8k\.token\.txt.*captions\.txt",
        ),
        (lambda root: (root / "Images").rename(root / "pictures"), r"no images under root=.*Flicker8k_Dataset.*Images"),
        (lambda root: (root / "captions.txt").write_text("name,text\na,b\n"), "columns 'image' and 'caption'"),
        (lambda root: (root / "captions.txt").write_text("image,caption\na.jpg\n"), "line 2: not as many cells"),
        (lambda root: (root / "captions.txt").write_text("image,caption\na.jpg,b, c\n"), "line 2: not as many cells"),
        (lambda root: (root / "captions.txt").write_bytes(b"image,caption\na.jpg,caf\xe9\n"), "is not UTF-8"),
        (lambda root: (root / "captions.txt").write_text("image,caption\nz.jpg,b\n"), "none of the 1 images"),
        (
            lambda root: (root / "Flickr8k.token.txt").write_text("a.jpg#0 no tab\n"),
            "line 1: 'image.jpg#0<TAB>sentence'",
        ),
        (lambda root: (root / "Flickr_8k.devImages.txt").unlink(), r"lists of parts are missing: .*devImages"),
        (
            lambda root: (root / "Flickr_8k.devImages.txt").write_text("1_ab.jpg\n"),
            "1_ab.jpg is in two parts, train and val",
        ),
        (
            lambda root: (root / "Flickr_8k.testImages.txt").write_text("x.jpg\n"),
            "none of the images that .*testImages",
        ),
    ],
)
def test_what_is_missing_or_cannot_be_read_is_named(tmp_path, damage, says):
    root = flickr8k(tmp_path, "kaggle")
    damage(root)
    with pytest.raises(DataError, match=says):
        load(root)


@pytest.mark.slow
def test_the_locale_does_not_matter(tmp_path):
    write(tmp_path / "Images" / "кот.jpg", photo(0))
    for i in range(4):
        write(tmp_path / "Images" / f"{i}.jpg", photo(i))
    rows = [f"{name},Ein Käfer" for name in ("кот.jpg", "0.jpg", "1.jpg", "2.jpg", "3.jpg")]
    (tmp_path / "captions.txt").write_text("\n".join(["image,caption", *rows]), encoding="utf-8")
    code = (
        "from moezoo.data import load_dataset; "
        f"s = load_dataset('flickr8k', root={str(tmp_path)!r}); "
        "print(ascii(sorted(p.captions(i)[0] for p in (s.train, s.val, s.test) for i in range(len(p)))))"
    )
    environment = {**os.environ, "LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ascii(["Ein Käfer"] * 5), done.stderr


def test_bad_photographs_are_skipped_in_training_only(tmp_path):
    root = flickr8k(tmp_path)
    for name in ("0_ab.jpg", "19_ab.jpg"):
        (root / "Flicker8k_Dataset" / name).write_bytes(b"<html>not found</html>")
    splits = load(root)
    assert isinstance(splits.train[0], Skipped)
    with pytest.raises(UnreadableImage, match=r"19_ab\.jpg"):
        splits.test[3]
