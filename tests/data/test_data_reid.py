"""Re-identification folders: what their names say, what is left out, what evaluation refuses."""

import numpy as np
import pytest
import torch
from dataset_folders import market1501, msvr310, photo, rgbnt100, rgbnt201, write
from PIL import Image

from moezoo.data import Skipped, load_dataset, read_image
from moezoo.errors import ConfigError, DataError, UnreadableImage

SMALL = {"input_size": (3, 16, 16), "mean": (0.0,), "std": (1.0,)}


def test_market1501_drops_junk_and_keeps_distractors(tmp_path):
    root = market1501(tmp_path)
    for place in (root, tmp_path):
        splits = load_dataset("market1501", root=place, **SMALL)
        assert splits.modalities == ("RGB",)
        assert splits.train.label_names == (2, 7, 11)
        assert [splits.train[i][1:] for i in range(6)] == [(i // 2, 1 + i % 2, -1) for i in range(6)]
        assert splits.query.identities.tolist() == [3, 5]
        assert splits.gallery.identities.tolist() == [0, 0, 3, 3, 5, 5]
        assert splits.gallery.cameras.tolist() == [1, 2] * 3
        assert splits.query[0][0].shape == (1, 3, 16, 16)
        assert splits.left_out == ()


def test_rgbnt201_takes_the_same_name_from_three_folders(tmp_path):
    splits = load_dataset(
        "rgbnt201", root=rgbnt201(tmp_path), augment=False, input_size=(3, 32, 16), mean=(0.0,), std=(1.0,)
    )
    assert splits.train.label_names == (1, 4, 258)
    assert splits.modalities == ("RGB", "NIR", "TIR")
    images, identity, camera, scene = splits.train[3]
    assert (identity, camera, scene) == (1, 2, -1)
    assert splits.train.describe(3).endswith("RGB/000004_cam2_0_00.jpg")
    folder = tmp_path / "RGBNT201" / "train_171"
    for place, kind in enumerate(("RGB", "NI", "TI")):
        want = torch.from_numpy(np.array(read_image(folder / kind / "000004_cam2_0_00.jpg"))).permute(2, 0, 1) / 255
        assert torch.allclose(images[place], want)
    assert splits.query.items == splits.gallery.items
    assert splits.unmatched_queries == 0


def test_rgbnt100_cuts_one_picture_into_three(tmp_path):
    root = rgbnt100(tmp_path)
    colours = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    strip = np.concatenate([np.full((16, 32, 3), colour, dtype=np.uint8) for colour in colours], axis=1)
    path = write(root / "query" / "0003_c4_9999.png", Image.fromarray(strip))
    splits = load_dataset("rgbnt100", root=tmp_path, **SMALL)
    index = splits.query.items.index(str(path))
    images, identity, camera, _ = splits.query[index]
    assert (identity, camera) == (3, 4)
    assert torch.allclose(images.mean((2, 3)) * 255, torch.tensor(colours, dtype=torch.float32))
    write(root / "bounding_box_train" / "0001_c1_plain.jpg", photo(5, (40, 20)))
    write(root / "query" / "0003_c4_plain.jpg", photo(5, (40, 20)))
    splits = load_dataset("rgbnt100", root=tmp_path, **SMALL)
    skipped = [item for item in (splits.train[i] for i in range(len(splits.train))) if isinstance(item, Skipped)]
    assert [s.reason for s in skipped] == [
        "is 40 x 20 pixels; three pictures side by side, six times as wide as high, are needed"
    ]
    with pytest.raises(UnreadableImage, match="three pictures side by side"):
        splits.query[len(splits.query) - 1]


def test_msvr310_has_scenes(tmp_path):
    splits = load_dataset("msvr310", root=msvr310(tmp_path), **SMALL)
    assert splits.train.label_names == (1, 2)
    assert splits.query[0][1:] == (3, 1, 3)
    assert splits.gallery.scenes.tolist() == [1, 2, 1, 2]
    assert splits.gallery.cameras.tolist() == [0, 5, 0, 5]
    assert splits.query[0][0].shape == (3, 3, 16, 16)


SETS = {"market1501": market1501, "rgbnt201": rgbnt201, "rgbnt100": rgbnt100, "msvr310": msvr310}


def test_bad_names_are_counted_in_training_and_refused_in_evaluation(tmp_path, caplog):
    places = {
        "market1501": ("bounding_box_train", "bounding_box_test"),
        "rgbnt201": ("train_171/RGB", "test/RGB"),
        "rgbnt100": ("bounding_box_train", "query"),
        "msvr310": ("bounding_box_train/0001/vis", "query3/0003/vis"),
    }
    for name, (train, test) in places.items():
        root = SETS[name](tmp_path / name)
        siblings = ("RGB", "NI", "TI") if name == "rgbnt201" else ("vis", "ni", "th") if name == "msvr310" else ("",)
        for kind in siblings:
            folder = root / train.rpartition("/")[0] / kind if kind else root / train
            write(folder / "holiday.jpg", photo(1))
        splits = load_dataset(name, root=root, **SMALL)
        assert len(splits.left_out) == 1, name
        assert "holiday.jpg" in splits.left_out[0].path
        assert "does not say who was seen where" in splits.left_out[0].reason
        assert f"{name}: 1 training images are left out" in caplog.text
        for kind in siblings:
            folder = root / test.rpartition("/")[0] / kind if kind else root / test
            write(folder / "holiday.jpg", photo(1))
        with pytest.raises(
            DataError, match=r"1 files of the \w+ part cannot be used, the first: .*holiday\.jpg has a name"
        ):
            load_dataset(name, root=root, **SMALL)


def test_a_missing_spectrum_is_counted_in_training_and_refused_in_evaluation(tmp_path):
    root = rgbnt201(tmp_path)
    (root / "train_171" / "NI" / "000001_cam1_0_00.jpg").unlink()
    (root / "train_171" / "RGB" / "000004_cam1_0_00.jpg").unlink()
    splits = load_dataset("rgbnt201", root=root, **SMALL)
    assert len(splits.train) == 4
    assert [s.reason.partition(":")[0] for s in splits.left_out] == ["is not there in every spectrum"] * 2
    assert "NI/000001_cam1_0_00.jpg missing" in splits.left_out[0].reason
    (root / "test" / "TI" / "000009_cam2_0_00.jpg").unlink()
    with pytest.raises(DataError, match=r"TI/000009_cam2_0_00\.jpg missing"):
        load_dataset("rgbnt201", root=root, **SMALL)
    vehicle = msvr310(tmp_path)
    for path in (vehicle / "query3" / "0003" / "th").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"query part cannot be used.*0003/th/.* missing"):
        load_dataset("msvr310", root=vehicle, **SMALL)


def test_a_vehicle_in_the_folder_of_another_is_left_out(tmp_path):
    root = msvr310(tmp_path)
    for kind in ("vis", "ni", "th"):
        write(root / "bounding_box_train" / "0001" / kind / "0002_s001_v1_007.jpg", photo(3, (32, 16)))
    splits = load_dataset("msvr310", root=root, **SMALL)
    assert [s.reason for s in splits.left_out] == ["lies in the folder of vehicle 0001"]


def test_queries_without_an_answer_are_counted(tmp_path, caplog):
    root = market1501(tmp_path)
    write(root / "query" / "0900_c1s1_000001_00.jpg", photo(1))  # nobody of that name in the gallery
    write(root / "query" / "0901_c3s1_000001_00.jpg", photo(2))
    write(root / "bounding_box_test" / "0901_c3s1_000002_00.jpg", photo(3))  # the same camera only
    splits = load_dataset("market1501", root=root, **SMALL)
    assert splits.unmatched_queries == 2
    assert "2 of 4 queries have no match in the gallery, by another camera" in caplog.text
    root = msvr310(tmp_path)  # where there are scenes, they take the place of the cameras
    for identity, seen in ((5, "s002_v0"), (6, "s001_v5")):
        for kind in ("vis", "ni", "th"):
            for part, place in (("query3", "s001_v0"), ("bounding_box_test", seen)):
                write(root / part / f"{identity:04d}" / kind / f"{identity:04d}_{place}_900.jpg", photo(1, (32, 16)))
    assert load_dataset("msvr310", root=root, **SMALL).unmatched_queries == 1
    assert "1 of 3 queries have no match in the gallery, in another scene" in caplog.text


@pytest.mark.parametrize("name", list(SETS))
def test_missing_folders_are_an_error_that_names_the_places(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: no folders .* together under root=.*looked in: {tmp_path}"):
        load_dataset(name, root=tmp_path, **SMALL)


def test_empty_parts_and_shared_identities_are_refused(tmp_path):
    root = market1501(tmp_path / "a")
    for path in (root / "query").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="the query part has no images"):
        load_dataset("market1501", root=root, **SMALL)
    root = market1501(tmp_path / "b")
    write(root / "query" / "0007_c1s1_000001_00.jpg", photo(1))
    with pytest.raises(DataError, match="1 identities are in the training and the query part, such as 7"):
        load_dataset("market1501", root=root, **SMALL)
    root = market1501(tmp_path / "c")
    write(root / "bounding_box_test" / "0011_c1s1_000001_00.jpg", photo(1))
    with pytest.raises(DataError, match="1 identities are in the training and the gallery part, such as 11"):
        load_dataset("market1501", root=root, **SMALL)


def test_a_mirror_and_an_erased_place_are_the_same_in_all_spectra(tmp_path):
    root = rgbnt201(tmp_path)
    ramp = np.tile(np.linspace(0, 255, 16, dtype=np.uint8), (32, 1))
    for kind in ("RGB", "NI", "TI"):
        write(root / "train_171" / kind / "000001_cam1_0_00.jpg", Image.fromarray(ramp).convert("RGB"))
    splits = load_dataset("rgbnt201", root=root, input_size=(3, 32, 16), mean=(0.0,), std=(1.0,), re_prob=1.0, pad=4)
    torch.manual_seed(0)
    reads = torch.stack([splits.train[0][0] for _ in range(12)])
    assert torch.allclose(reads[:, 0], reads[:, 1], atol=0.05)
    assert torch.allclose(reads[:, 0], reads[:, 2], atol=0.05)
    assert len({read.numpy().tobytes() for read in reads}) == 12
    directions = {bool((read[0, 0, :, -4:].mean() > read[0, 0, :, :4].mean()).item()) for read in reads}
    assert directions == {True, False}
    for bad in ({"pad": -1}, {"re_prob": 1.5}, {"hflip": "often"}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            load_dataset("rgbnt201", root=root, **bad)


def test_a_broken_file_is_skipped_in_training_and_an_error_in_evaluation(tmp_path):
    root = rgbnt201(tmp_path)
    for part in ("train_171", "test"):
        name = "000001_cam1_0_00.jpg" if part == "train_171" else "000009_cam1_0_00.jpg"
        (root / part / "TI" / name).write_bytes(b"")
    splits = load_dataset("rgbnt201", root=root, **SMALL)
    assert splits.train[0] == Skipped(str(root / "train_171" / "TI" / "000001_cam1_0_00.jpg"), "is empty (0 bytes)")
    with pytest.raises(UnreadableImage, match=r"TI/000009_cam1_0_00\.jpg: is empty"):
        splits.query[0]


def test_validation_identities_are_taken_out_of_training(tmp_path):
    places = {name: make(tmp_path / name) for name, make in SETS.items()}
    for number in (3, 4):  # the two sets with two training identities need more
        seen = f"{number:04d}_s001_v0_900.jpg", f"{number:04d}_s002_v5_901.jpg"
        for kind in ("vis", "ni", "th"):
            for name in seen:
                write(places["msvr310"] / "bounding_box_train" / f"01{number:02d}" / kind / f"01{name[2:]}", photo(1))
        for camera in (1, 2):
            write(places["rgbnt100"] / "bounding_box_train" / f"01{number:02d}_c{camera}_9.jpg", photo(1, (96, 16)))
    for name, root in places.items():
        whole = load_dataset(name, root=root, **SMALL)
        assert whole.val is None
        drawn = set()
        for seed in range(6):
            splits = load_dataset(name, root=root, val_identities=1, split_seed=seed, re_prob=1.0, **SMALL)
            val = splits.val
            (aside,) = set(val.images.identities.tolist())
            drawn.add(aside)
            assert splits.train.label_names == tuple(x for x in whole.train.label_names if x != aside)
            assert sorted(set(splits.train.identities.tolist())) == list(range(splits.num_identities))
            assert sorted([*splits.train.items, *val.images.items], key=str) == sorted(whole.train.items, key=str)
            assert splits.query.items == whole.query.items
            assert (len(val), val.num_queries, val.num_gallery, val.unmatched_queries) == (2, 2, 2, 0)
            assert val.protocol == splits.protocol == ("msvr310" if name == "msvr310" else "market1501")
            assert torch.equal(val[0][0], val[0][0])  # not augmented
            again = load_dataset(name, root=root, val_identities=1, split_seed=seed, **SMALL)
            assert again.val.images.items == val.images.items
        assert len(drawn) > 1
        with pytest.raises(DataError, match=f"val_identities={len(whole.train.label_names) - 1} of .* fewer than two"):
            load_dataset(name, root=root, val_identities=len(whole.train.label_names) - 1, **SMALL)
        with pytest.raises(ConfigError, match="val_identities=-1"):
            load_dataset(name, root=root, val_identities=-1, **SMALL)


def test_the_test_part_is_query_and_gallery_in_one(tmp_path):
    market = load_dataset("market1501", root=market1501(tmp_path), **SMALL)
    part = market.test
    assert (len(part), part.num_queries, part.num_gallery) == (8, 2, 6)
    for side, indices in ((market.query, part.query_indices), (market.gallery, part.gallery_indices)):
        assert [part.describe(i) for i in indices] == [side.describe(i) for i in range(len(side))]
        assert torch.equal(part[indices[1]][0], side[1][0])
        assert part[indices[1]][1:] == side[1][1:]
    query, gallery = part.sides(torch.arange(8.0)[:, None])
    assert query[0].flatten().tolist() == [0, 1]
    assert [column.tolist() for column in gallery[1:3]] == [
        market.gallery.identities.tolist(),
        market.gallery.cameras.tolist(),
    ]
    same = load_dataset("rgbnt201", root=rgbnt201(tmp_path), **SMALL).test
    assert (len(same), same.num_queries, same.num_gallery) == (4, 4, 4)


def test_a_single_camera_leaves_nothing_to_measure(tmp_path):
    root = market1501(tmp_path)
    for part in ("query", "bounding_box_test"):
        for path in (root / part).glob("*_c2*"):
            path.unlink()
    with pytest.raises(DataError, match="market1501: not one of 2 queries has a match in the gallery, by another cam"):
        load_dataset("market1501", root=root, **SMALL)
    root = rgbnt201(tmp_path)
    for path in (root / "train_171").glob("*/*_cam2_*"):
        path.unlink()
    load_dataset("rgbnt201", root=root, **SMALL)  # nothing is measured on the training part
    with pytest.raises(DataError, match="the 1 identities set aside for validation: not one of 1 queries"):
        load_dataset("rgbnt201", root=root, val_identities=1, **SMALL)


def test_a_broken_file_set_aside_for_validation_is_an_error(tmp_path):
    root = rgbnt201(tmp_path)
    for path in (root / "train_171" / "NI").iterdir():
        path.write_bytes(b"")
    splits = load_dataset("rgbnt201", root=root, val_identities=1, **SMALL)
    assert isinstance(splits.train[0], Skipped)
    with pytest.raises(UnreadableImage, match=r"NI/.*is empty"):
        splits.val[0]


def test_false_detections_are_dropped_from_vehicles_too(tmp_path):
    root = rgbnt100(tmp_path)
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        write(root / part / "-1_c1_0000.jpg", photo(1, (96, 16)))
    splits = load_dataset("rgbnt100", root=root, **SMALL)
    assert splits.train.label_names == (1, 2)
    assert -1 not in splits.test.images.identities
