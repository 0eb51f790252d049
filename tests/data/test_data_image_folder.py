"""Folders of images: both layouts, missing parts, and files that cannot be read."""

import logging

import pytest
import torch
from dataset_folders import image_folder, photo, write
from torch._utils import ExceptionWrapper

from moezoo.data import Skipped, load_dataset
from moezoo.errors import DataError, UnreadableImage

SMALL = {"input_size": (3, 16, 16)}


def paths(part):
    return [part.describe(i) for i in range(len(part))]


def test_parts_of_their_own_are_taken_as_they_are(tmp_path):
    splits = load_dataset("image_folder", root=image_folder(tmp_path / "pets"), **SMALL)
    assert splits.name == "image_folder:pets"
    assert splits.label_names == ("cat", "dog")
    for name in ("train", "val", "test"):
        part = getattr(splits, name)
        assert len(part) == 16
        assert all(f"/{name}/{splits.label_names[part[i][1]]}/" in part.describe(i) for i in range(16))


def test_a_missing_validation_part_is_drawn_by_seed_and_said(tmp_path, caplog):
    root = image_folder(tmp_path, parts=("train", "test"), count=20)
    with caplog.at_level(logging.INFO, logger="moezoo"):
        splits = load_dataset("image_folder", root=root, **SMALL)
    assert "has no val part: 4 of 40 training images are drawn" in caplog.text
    assert [len(splits.train), len(splits.val), len(splits.test)] == [36, 4, 40]
    assert sorted(splits.val.labels) == [0, 0, 1, 1]
    assert not set(paths(splits.val)) & set(paths(splits.train))
    assert paths(load_dataset("image_folder", root=root, **SMALL).val) == paths(splits.val)
    assert paths(load_dataset("image_folder", root=root, split_seed=3, **SMALL).val) != paths(splits.val)


def test_without_a_test_folder_validation_is_the_test(tmp_path, caplog):
    root = image_folder(tmp_path, parts=("Training", "validation"), count=10)
    with caplog.at_level(logging.INFO, logger="moezoo"):
        splits = load_dataset("image_folder", root=root, **SMALL)
    assert "its validation part is the test" in caplog.text
    assert [len(splits.train), len(splits.val), len(splits.test)] == [18, 2, 20]
    assert all("/validation/" in path for path in paths(splits.test))
    assert all("/Training/" in path for path in paths(splits.val))


def test_class_folders_alone_are_divided_by_class(tmp_path):
    root = tmp_path / "flat"
    image_folder(root.parent, parts=("flat",), classes=("a", "b", "train"), count=20)
    write(root / "a" / "deep" / "er" / "x.png", photo(999))
    write(root / "a" / "._hidden.png", photo(1000))
    write(root / "a" / ".ipynb_checkpoints" / "0-checkpoint.png", photo(0))  # a copy that could be in another part
    write(root / "__MACOSX" / "a.png", photo(1001))
    (root / ".cache").mkdir()
    (root / "a" / "notes.txt").write_text("no image")
    splits = load_dataset("image_folder", root=root, **SMALL)  # "train" is a class here
    assert splits.label_names == ("a", "b", "train")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [43, 6, 12]
    everything = [*paths(splits.train), *paths(splits.val), *paths(splits.test)]
    assert len(set(everything)) == 61
    assert str(root / "a" / "deep" / "er" / "x.png") in everything


@pytest.mark.parametrize(
    ("prepare", "says"),
    [
        (lambda root: None, r"is not a folder; looked for .*/train/<class>/\*\.jpg, or .*/<class>/\*\.jpg"),
        (lambda root: root.mkdir(), "holds no class folders; looked for"),
        (lambda root: write(root / "a.png", photo(0)), "holds images, but no class folders"),
        (lambda root: image_folder(root, parts=("val", "test")), "but no class folders in a train folder"),
        (lambda root: write(root / "train" / "a.png", photo(0)), "but no class folders in a train folder"),
        (
            lambda root: (
                image_folder(root),
                write(root / "train" / "b.png", photo(0)),
                write(root / "x/c.png", photo(0)),
            ),
            r"images beside its class folders, such as .*train/b\.png; looked for",
        ),
        (lambda root: (image_folder(root), (root / "train" / "eel").mkdir()), "no images in .*train/eel; endings"),
        (
            lambda root: (image_folder(root), write(root / "test" / "eel" / "a.png", photo(0))),
            "test/eel is a class that the training part does not have",
        ),
        (lambda root: image_folder(root, parts=("train",), count=1), "too few images: its test part is empty"),
    ],
)
def test_another_layout_is_an_error_that_names_what_was_looked_for(tmp_path, prepare, says):
    root = tmp_path / "root"
    prepare(root)
    with pytest.raises(DataError, match=says):
        load_dataset("image_folder", root=root, **SMALL)


def test_a_class_without_test_images_is_said(tmp_path, caplog):
    import shutil

    root = image_folder(tmp_path)
    shutil.rmtree(root / "test" / "dog")
    splits = load_dataset("image_folder", root=root, **SMALL)
    assert "has no images of 1 classes: dog" in caplog.text
    assert splits.test.labels == [0] * 8


def test_unreadable_files_are_skipped_in_training_and_errors_in_evaluation(tmp_path):
    root = image_folder(tmp_path)
    for part in ("train", "val", "test"):
        (root / part / "cat" / "0.png").write_bytes(b"")
        (root / part / "dog" / "7.png").write_bytes((root / part / "dog" / "7.png").read_bytes()[:100])
    splits = load_dataset("image_folder", root=root, **SMALL)
    assert splits.train[0] == Skipped(str(root / "train" / "cat" / "0.png"), "is empty (0 bytes)")
    assert splits.train[15].path == str(root / "train" / "dog" / "7.png")
    assert isinstance(splits.train[1][0], torch.Tensor)
    for part in (splits.val, splits.test):
        with pytest.raises(UnreadableImage, match=r"cat/0\.png: is empty"):
            part[0]
        with pytest.raises(UnreadableImage, match=r"dog/7\.png"):
            part[15]
        with pytest.raises(UnreadableImage, match=r"worker process 3.*(?s:.*)cat/0\.png: is empty"):
            in_a_worker(lambda part=part: part[0]).reraise()


def in_a_worker(read):
    """What a DataLoader's worker sends in the place of a batch when ``read`` raises."""
    try:
        read()
    except Exception:
        return ExceptionWrapper(where="in DataLoader worker process 3")


def test_folders_and_files_may_have_any_names(tmp_path):
    root = tmp_path / "ein Ordner" / "图像"
    for name in ("ein Name", "кот", "n" * 100):
        for i in range(12):
            write(root / name / f"a b {i} é.PNG", photo(i))
    splits = load_dataset("image_folder", root=root, **SMALL)
    assert set(splits.label_names) == {"ein Name", "кот", "n" * 100}
    assert splits.test[0][0].shape == (3, 16, 16)
