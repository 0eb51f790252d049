"""CIFAR and Fashion-MNIST: torchvision's readers on files of the published form, and what is refused."""

import re

import numpy as np
import pytest
import torch
from dataset_folders import cifar, fashion_mnist, idx
from torchvision.datasets import CIFAR10, CIFAR100

from moezoo.data import cifar as cifar_module
from moezoo.data import load_dataset
from moezoo.errors import ConfigError, DataError

PLAIN = {"mean": (0.0,), "std": (1.0,), "augment": False}


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder in CIFAR-10's form, and a reader that is told its md5 sums."""
    source = cifar(tmp_path, CIFAR10)
    monkeypatch.setattr(cifar_module, "CIFAR10", source)
    return tmp_path


def test_cifar_files_are_read_with_their_labels_and_channels(tiny):
    splits = load_dataset("cifar10", root=tiny, **PLAIN)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [130, 20, 30]  # 15 of each class in 5 files
    assert splits.label_names == tuple(f"class {i}" for i in range(10))
    for part in (splits.train, splits.val, splits.test):
        for i in range(0, len(part), 7):
            image, label = part[i]
            assert image.shape == (3, 32, 32)
            assert torch.allclose(image[:, 20, 20] * 255, label * 2 + torch.arange(3.0), atol=1e-3)
    assert sorted(label for _, label in (splits.val[i] for i in range(20))) == sorted(2 * list(range(10)))
    assert re.fullmatch(r"cifar10 train image \d+", splits.val.describe(0))


def test_another_seed_draws_another_validation_part_and_the_same_test(tiny):
    one, two = (load_dataset("cifar10", root=tiny, split_seed=seed, **PLAIN) for seed in (0, 1))
    assert one.val.items != two.val.items
    assert one.test.items == two.test.items
    larger = load_dataset("cifar10", root=tiny, val_fraction=0.4, **PLAIN)
    assert len(larger.val) == 60
    for bad in (0.0, 1.0, -0.5):
        with pytest.raises(ConfigError, match="val_fraction"):
            load_dataset("cifar10", root=tiny, val_fraction=bad)


def test_cifar100_has_its_fine_labels(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar_module, "CIFAR100", cifar(tmp_path, CIFAR100, classes=100))
    splits = load_dataset("cifar100", root=tmp_path, **PLAIN)
    assert splits.num_classes == 100
    assert [len(splits.train), len(splits.val), len(splits.test)] == [200, 100, 300]


def test_a_file_that_is_not_the_published_one_is_named_and_never_unpickled(tmp_path):
    cifar(tmp_path, CIFAR10)
    canary = tmp_path / "canary"
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_1"
    batch.write_bytes(f"cos\nsystem\n(S'touch {canary}'\ntR.".encode())
    with pytest.raises(
        DataError, match=rf"{re.escape(str(batch))} is not the published file: its md5 is [0-9a-f]{{32}}"
    ):
        load_dataset("cifar10", root=tmp_path)
    assert not canary.exists()


def test_missing_cifar_files_are_listed_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"data_batch_1.*batches\.meta; moezoo data get cifar10 --root"):
        load_dataset("cifar10", root=tmp_path)
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"unpack .*cifar-10-python\.tar\.gz"):
        load_dataset("cifar10", root=tmp_path)
    with pytest.raises(ConfigError, match="needs root="):
        load_dataset("cifar10")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda entry: entry["labels"].__setitem__(3, 10), "5 labels are out of range, the first is 10 of image 3"),
        (lambda entry: entry["labels"].pop(), "150 images, but 145 labels"),
    ],
)
def test_labels_of_cifar_must_fit(tmp_path, monkeypatch, damage, says):
    import pickle

    real_dumps = pickle.dumps

    def dumps(entry, protocol):
        if "labels" in entry:
            damage(entry)
        return real_dumps(entry, protocol=protocol)

    monkeypatch.setattr("dataset_folders.pickle.dumps", dumps)
    source = cifar(tmp_path, CIFAR10)
    monkeypatch.setattr(cifar_module, "CIFAR10", source)
    with pytest.raises(DataError, match=says):
        load_dataset("cifar10", root=tmp_path)


def test_fashion_mnist_is_read_with_its_labels(tmp_path):
    fashion_mnist(tmp_path)
    splits = load_dataset("fashion_mnist", root=tmp_path, **PLAIN)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [30, 10, 40]
    assert splits.label_names[9] == "Ankle boot"
    for part in (splits.train, splits.val, splits.test):
        for i in range(len(part)):
            image, label = part[i]
            assert image.shape == (1, 28, 28)
            assert round(float(image[0, 0, 0]) * 255) == label
    colour = load_dataset("fashion_mnist", root=tmp_path, input_size=(3, 28, 28), **PLAIN)
    assert torch.equal(colour.test[0][0][0], colour.test[0][0][2])


def test_packed_or_missing_fashion_files_say_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.*moezoo data get fashion_mnist"):
        load_dataset("fashion_mnist", root=tmp_path)
    fashion_mnist(tmp_path, packed=True)
    with pytest.raises(DataError, match=r"must be unpacked: gunzip"):
        load_dataset("fashion_mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("name", "data", "says"),
    [
        ("train-labels-idx1-ubyte", idx(np.arange(39) % 10), "40 images, but 39 labels"),
        ("train-labels-idx1-ubyte", idx(np.full(40, 34)), "out of range, the first is 34 of image 0"),
        ("train-images-idx3-ubyte", idx(np.zeros((40, 28, 28)))[:-500], "damaged or cut"),
        ("t10k-images-idx3-ubyte", b"", "damaged or cut"),
        ("t10k-images-idx3-ubyte", b"<!DOCTYPE html>", "damaged or cut"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((40, 32, 32))), "must be bytes of shape"),
    ],
)
def test_fashion_files_that_do_not_fit_are_named(tmp_path, name, data, says):
    raw = fashion_mnist(tmp_path)
    (raw / name).write_bytes(data)
    with pytest.raises(DataError, match=says) as caught:
        load_dataset("fashion_mnist", root=tmp_path)
    assert f"{raw}, files {name.partition('-')[0]}-*" in str(caught.value)


def test_pickles_of_an_old_torchvision_are_not_read(tmp_path):
    fashion_mnist(tmp_path)
    old = tmp_path / "FashionMNIST" / "processed"
    old.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28, dtype=torch.uint8), torch.zeros(1)), old / name)
    with pytest.raises(DataError, match=r"training\.pt and test\.pt are pickles"):
        load_dataset("fashion_mnist", root=tmp_path)
