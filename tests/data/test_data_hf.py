"""Data sets of Hugging Face datasets: where they lie, which columns are meant, how their images are read."""

import builtins
import io
import logging

import datasets
import hub_of_sets
import loopback_api
import numpy as np
import pytest
import torch
from dataset_folders import hf, image_folder, photo

from moezoo.data import Skipped, load_dataset
from moezoo.errors import ConfigError, DataError, MissingPackageError, UnreadableImage

SMALL = {"input_size": (3, 16, 16)}


def cell(seed, mode="RGB", cut=None):
    buffer = io.BytesIO()
    photo(seed, mode=mode).save(buffer, "PNG")
    return {"bytes": buffer.getvalue()[:cut], "path": None}


def saved(root, columns, **features):
    images = {name: datasets.Image() for name, cells in columns.items() if isinstance(cells[0], dict)}
    labels = {name: datasets.Value("string" if isinstance(v[0], str) else "int64") for name, v in columns.items()}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features({**labels, **images, **features}))
    table.save_to_disk(str(root))
    return root


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_saved_set_is_read_with_its_parts_and_names(tmp_path):
    splits = load_dataset("hf", path=hf(tmp_path / "set"), **SMALL)
    assert splits.label_names == ("a", "b", "c")
    assert [len(splits.train), len(splits.val), len(splits.test)] == [12, 12, 12]
    assert [splits.val[i][1] for i in range(3)] == [0, 1, 2]
    assert splits.val.describe(2).endswith("validation row 2")
    plain = load_dataset("hf", path=tmp_path / "set", input_size=(3, 20, 24), mean=(0.0,), std=(1.0,))
    want = torch.from_numpy(np.array(photo(102))).permute(2, 0, 1) / 255
    assert torch.allclose(plain.val[2][0], want)


def test_parquet_and_image_folders_are_read(tmp_path):
    (tmp_path / "parquet").mkdir()
    columns = {"image": [cell(i) for i in range(20)], "label": [i % 2 for i in range(20)]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "parquet" / "train-0.parquet")
    splits = load_dataset("hf", path=tmp_path / "parquet", **SMALL)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [14, 2, 4]
    assert splits.label_names == ("x", "y")
    splits = load_dataset("hf", path=image_folder(tmp_path / "folder"), **SMALL)
    assert [len(splits.train), len(splits.val), len(splits.test)] == [16, 16, 16]
    assert splits.label_names == ("cat", "dog")
    assert splits.test[0][0].shape == (3, 16, 16)


def test_a_set_on_the_hub_is_fetched_by_its_id_and_revision(tmp_path, hub, monkeypatch):
    monkeypatch.setattr(loopback_api, "ROUTES", hub_of_sets.ROUTES)
    feature = datasets.ClassLabel(names=["x", "y"])
    features = datasets.Features({"image": datasets.Image(), "label": feature})
    commits = []
    for count in (20, 30):
        columns = {"image": [cell(i) for i in range(count)], "label": [i % 2 for i in range(count)]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "t.parquet")
        content = (tmp_path / "t.parquet").read_bytes()
        commits.append(hub.put("datasets/me/set", {"data/train-00000-of-00001.parquet": content}))
    splits = load_dataset("hf", path="me/set", **SMALL)
    assert splits.name == "hf:me/set"
    assert [len(splits.train), len(splits.val), len(splits.test)] == [20, 4, 6]
    assert splits.test[0][0].shape == (3, 16, 16)
    older = load_dataset("hf", path="me/set", revision=commits[0], **SMALL)
    assert len(older.train) + len(older.val) + len(older.test) == 20


def test_columns_are_found_or_asked_for(tmp_path):
    strings = saved(tmp_path / "a", {"img": [cell(i) for i in range(12)], "category": ["dog", "ant", "cat"] * 4})
    splits = load_dataset("hf", path=strings, **SMALL)
    assert splits.label_names == ("ant", "cat", "dog")
    names = [splits.label_names[splits.train[i][1]] for i in range(len(splits.train))]
    rows = [int(splits.train.describe(i).rpartition(" ")[2]) for i in range(len(splits.train))]
    assert names == [("dog", "ant", "cat")[row % 3] for row in rows]

    two = saved(tmp_path / "b", {"a": [cell(0)] * 6, "b": [cell(1)] * 6, "kind": [5, 7, 5, 7, 5, 7]})
    with pytest.raises(ConfigError, match="image_column must be given: it could be any of a, b"):
        load_dataset("hf", path=two, **SMALL)
    with pytest.raises(ConfigError, match=r"label_column must be given: it is not clear\. The data set has"):
        load_dataset("hf", path=two, image_column="a", **SMALL)
    with pytest.raises(ConfigError, match=r"label_column='kinds' is not in the data set\. Did you mean: kind"):
        load_dataset("hf", path=two, image_column="a", label_column="kinds", **SMALL)
    with pytest.raises(ConfigError, match="image_column='kind' holds no images"):
        load_dataset("hf", path=two, image_column="kind", **SMALL)
    with pytest.raises(ConfigError, match=r"test_split='tset' is not in the data set"):
        load_dataset("hf", path=hf(tmp_path / "c"), test_split="tset", **SMALL)
    given = load_dataset("hf", path=two, image_column="a", label_column="kind", test_fraction=0.3, **SMALL)
    assert given.label_names == ("5", "7")


def test_no_part_is_used_twice(tmp_path):
    only = datasets.DatasetDict(test=datasets.load_from_disk(str(hf(tmp_path / "a")))["test"])
    only.save_to_disk(str(tmp_path / "only"))
    splits = load_dataset("hf", path=tmp_path / "only", train_split="test", **SMALL)
    items = [splits.train.items, splits.val.items, splits.test.items]
    assert sum(map(len, items)) == len({item for part in items for item in part}) == 12
    # The way out where a test part has no labels: its validation is the test, and validation is drawn.
    splits = load_dataset("hf", path=tmp_path / "a", test_split="validation", **SMALL)
    assert {item[0] for item in splits.test.items} == {"validation"}
    assert {item[0] for item in splits.val.items} == {"train"}
    with pytest.raises(ConfigError, match="test_split='train' is not allowed: that is another part already"):
        load_dataset("hf", path=tmp_path / "a", test_split="train", **SMALL)


def test_labels_that_do_not_fit_are_named(tmp_path):
    def read(train, test=None, column="label"):
        """A set of the parts, each (labels, the type of the column)."""
        tables = {}
        for part, given, name in (("train", train, "label"), ("test", test, column)):
            if given is not None:
                labels, kind = given
                columns = {"image": [cell(i) for i in range(len(labels))], name: labels}
                features = datasets.Features({"image": datasets.Image(), name: kind})
                tables[part] = datasets.Dataset.from_dict(columns, features=features)
        place = tmp_path / str(len(list(tmp_path.iterdir())))
        datasets.DatasetDict(tables).save_to_disk(str(place))
        return load_dataset("hf", path=place, **SMALL)

    word, number = datasets.Value("string"), datasets.Value("int64")
    one, two = (datasets.ClassLabel(names=names) for names in (["a", "b"], ["b", "a"]))
    with pytest.raises(DataError, match=r"'test', column 'label': 'z' is a class that the training part does not have"):
        read((["a", "b"] * 5, word), (["a", "z"], word))
    with pytest.raises(DataError, match="its classes are b, a; those to train on are a, b"):
        read(([0, 1] * 5, one), ([0, 1], two))
    with pytest.raises(DataError, match="its classes are not named; those to train on are a, b"):
        read(([0, 1] * 5, one), ([0, 1], number))
    with pytest.raises(DataError, match="part 'test' has no column 'label'; it has: image, id"):
        read(([0, 1] * 5, one), ([0, 1], number), column="id")
    for labels, kind in ((["a", None] * 5, word), ([3, None] * 5, number)):
        with pytest.raises(DataError, match="5 labels are out of range, the first is -1 of image 1"):
            read((labels, kind))
    for labels, kind in (([[1], [2]] * 5, datasets.Sequence(number)), ([1.5] * 10, datasets.Value("float32"))):
        with pytest.raises(ConfigError, match="label_column='label' must hold class labels, ints or strings"):
            read((labels, kind))


def test_bad_images_and_labels_are_found(tmp_path):
    cells = [cell(i, cut=60 if i == 4 else None) for i in range(20)]
    root = saved(tmp_path / "a", {"image": cells, "label": [i % 2 for i in range(20)]})
    splits = load_dataset("hf", path=root, **SMALL)
    found = [
        (part, part[i]) if part is splits.train else part
        for part in (splits.train, splits.val, splits.test)
        for i in range(len(part))
        if part.describe(i).endswith("row 4")
    ]
    if isinstance(found[0], tuple):
        assert isinstance(found[0][1], Skipped)
        assert found[0][1].path.endswith("row 4")
    else:
        with pytest.raises(UnreadableImage, match="row 4"):
            [found[0][i] for i in range(len(found[0]))]

    feature = datasets.ClassLabel(names=["a", "b"])
    columns = {"image": [cell(i) for i in range(6)], "label": [0, 1, -1, 0, 1, 0]}
    bad = saved(tmp_path / "b", columns, label=feature)
    with pytest.raises(DataError, match="1 labels are out of range, the first is -1"):
        load_dataset("hf", path=bad, **SMALL)


def test_what_is_not_there_is_one_error(tmp_path, hub, caplog):
    with caplog.at_level(logging.CRITICAL), pytest.raises(DataError, match="neither as a folder"):
        load_dataset("hf", path="nobody/nothing", **SMALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty"):
        load_dataset("hf", path=tmp_path / "empty", **SMALL)


def test_without_the_package_the_error_says_how_to_install_it(monkeypatch, tmp_path):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"moezoo\[datasets\]"):
        load_dataset("hf", path=tmp_path, **SMALL)
