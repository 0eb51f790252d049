"""Generated sightings in three spectra: each cue is where it is said to be, and nowhere else."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from moezoo.data import load_dataset
from moezoo.data.generated import trispectral_figures
from moezoo.data.generated.trispectral_figures import CUES
from moezoo.data.generated.trispectral_patchwork import PATTERNS
from moezoo.errors import ConfigError

UNIT = {"mean": (0.0,), "std": (1.0,)}
MANY = {"train_identities": 60, "test_identities": 40, "cameras": 3, "images_per_camera": 2}
NATIVE = {"input_size": (3, 128, 64), **UNIT}


def seen(splits):
    """(N, 3, 128, 64) first channels and colours of all test images, and the level of each cue."""
    parts = (splits.query, splits.gallery)
    images = torch.stack([part[i][0] for part in parts for i in range(len(part))]).numpy()
    levels = [part.levels(i) for part in parts for i in range(len(part))]
    return images, {cue: np.array([level[cue] for level in levels]) for cue in CUES}


def coarse(images, spectrum):
    """Means of 16 x 16 pixels: no weave is left."""
    return images[:, spectrum].reshape(len(images), 3, 8, 16, 4, 16).mean((3, 5)).reshape(len(images), -1)


def fine(images, spectrum):
    """Strength of the weaves in the upper body, without its mean and without place."""
    patch = images[:, spectrum, 0, 38:74, 20:44]
    patch = patch - patch.mean((1, 2), keepdims=True)
    spectra = []
    for down, across in ((3, 0), (0, 3), (5, 0), (0, 5)):
        y, x = np.mgrid[: patch.shape[1], : patch.shape[2]]
        wave = np.exp(2j * np.pi * (y / down if down else x / across))
        spectra.append(np.abs((patch * wave).mean((1, 2))))
    return np.stack(spectra, axis=1)


def probe(features, target):
    """Accuracy of a linear probe on images it was not fitted to."""
    features = (features - features.mean(0)) / (features.std(0) + 1e-6)
    half = len(features) // 2
    model = LogisticRegression(C=0.1, max_iter=200).fit(features[:half], target[:half])
    return model.score(features[half:], target[half:])


def test_each_cue_is_in_its_spectrum_at_its_scale_and_nowhere_else():
    images, levels = seen(load_dataset("trispectral", **MANY, **NATIVE))
    order = np.random.RandomState(0).permutation(len(images))
    images = images[order]
    views = {
        (spectrum, scale): reader(images, place)
        for place, spectrum in enumerate(("rgb", "nir", "tir"))
        for scale, reader in (("coarse", coarse), ("fine", fine))
    }
    for cue in CUES:
        found = {view: probe(features, levels[cue][order]) for view, features in views.items()}
        spectrum, scale = cue.split("_")
        own = found.pop((spectrum, scale))
        assert own > 0.95, (cue, own)
        assert max(found.values()) < 0.55, (cue, found)  # of four levels; images of one identity are in both halves


def test_weaves_are_as_deep_as_asked_in_each_spectrum():
    few = {**MANY, "train_identities": 4, "test_identities": 2, "val_identities": 0}
    usual, _ = seen(load_dataset("trispectral", **few, **NATIVE))
    asked, _ = seen(load_dataset("trispectral", depths=(44, 11, 0), **few, **NATIVE))
    ratios = [(fine(asked, i).max(1) / fine(usual, i).max(1)).mean() for i in range(3)]
    assert ratios == pytest.approx([2, 0.5, 0], abs=0.1)
    for bad in ((22, 22), (22, 46, 22), (-1, 0, 0)):
        with pytest.raises(ConfigError, match="depths"):
            load_dataset("trispectral", depths=bad)


def test_a_patchwork_shows_its_cue_to_squares_and_neither_to_a_patch_nor_to_the_whole_picture():
    splits = load_dataset("trispectral", patchwork=20, noise=0, depths=(0, 0, 0), **MANY, **NATIVE)
    images, levels = seen(splits)
    levels = levels["nir_coarse"]
    cells = images[:, 1, 0].reshape(len(images), 16, 8, 8, 8).transpose(0, 1, 3, 2, 4)
    shares = np.einsum("nrcyx,pyx->nrcp", cells, PATTERNS) / 64
    shares -= shares.mean(0)  # the figure is the same in all
    squares = shares.reshape(-1, 4, 4, 2, 4, 4).mean((2, 4))
    by_square = np.abs(squares).mean((1, 2))
    assert probe(by_square, levels) > 0.95
    assert probe(np.abs(shares).mean((1, 2)), levels) < 0.4  # of four levels
    assert probe(np.abs(shares.mean((1, 2))), levels) < 0.4
    for bad in (-1, 26):
        with pytest.raises(ConfigError, match=f"patchwork={bad}.0 is not allowed"):
            load_dataset("trispectral", patchwork=bad)


def test_pictures_without_a_patchwork_stay_as_recorded_results_saw_them():
    splits = load_dataset("trispectral", input_size=(3, 128, 64))
    rgb, nir, tir = splits.query.read(splits.query.items[7])
    places = [(32, 20), (32, 55), (30, 99), (5, 5)]
    found = [[list(rgb.getpixel(p)), nir.getpixel(p), tir.getpixel(p)] for p in places]
    assert found == [
        [[161, 156, 178], 164, 127],
        [[38, 138, 86], 100, 146],
        [[61, 72, 56], 92, 122],
        [[21, 35, 25], 59, 67],
    ]


def test_a_cue_that_is_left_out_says_nothing_of_the_identity():
    every = load_dataset("trispectral", **MANY, **NATIVE)
    some = load_dataset("trispectral", cues=("nir_fine", "rgb_coarse", "tir_fine", "tir_coarse"), **MANY, **NATIVE)
    for splits, constant in ((every, set(CUES)), (some, {"nir_fine", "rgb_coarse", "tir_fine", "tir_coarse"})):
        by_identity = {}
        for i in range(len(splits.gallery)):
            by_identity.setdefault(int(splits.gallery.identities[i]), []).append(splits.gallery.levels(i))
        for cue in CUES:
            same = [len({level[cue] for level in shown}) == 1 for shown in by_identity.values()]
            assert all(same) if cue in constant else sum(same) < len(same) / 3, cue
        codes = {tuple(shown[0][cue] for cue in sorted(constant)) for shown in by_identity.values()}
        assert len(codes) == len(by_identity)
    for bad, says in (
        ({"cues": ["rgb_coarze"]}, "Did you mean: rgb_coarse"),
        ({"cues": ["rgb_coarse"]}, "they tell 4 identities apart"),
        ({"images_per_camera": 1}, "images_per_camera"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_dataset("trispectral", **bad)


def test_sightings_are_the_same_each_time_and_other_cameras_answer():
    one, two = (load_dataset("trispectral", **MANY, **NATIVE) for _ in range(2))
    assert torch.equal(one.query[5][0], two.query[5][0])
    assert one.query.levels(5) == two.query.levels(5)
    assert one.unmatched_queries == 0
    assert one.num_identities == 60
    assert [len(one.train), len(one.query), len(one.gallery)] == [360, 120, 120]
    assert not set(one.train.label_names) & set(one.gallery.identities.tolist())
    places = [set(part.cameras.tolist()) for part in (one.train, one.query, one.val.images)]
    assert [len(place) for place in places] == [3, 3, 3]
    assert len(set.union(*places)) == 9  # neither validation nor test knows a camera of the training
    assert set(one.gallery.cameras.tolist()) == places[1]
    val = one.val.images.identities
    assert len(set(val.tolist())) == 24
    assert not set(val.tolist()) & {*one.train.label_names, *one.gallery.identities.tolist()}
    assert (one.val.num_queries, one.val.num_gallery, one.val.unmatched_queries) == (72, 72, 0)
    without = load_dataset("trispectral", **MANY, **NATIVE, val_identities=0, new_cameras=False)
    assert without.val is None
    assert without.query.cameras.tolist() == [0, 1, 2] * 40
    assert without.train.levels(7) == one.train.levels(7)  # the other parts are the same with and without validation
    with pytest.raises(ConfigError, match="val_identities = 40 is not allowed with 2 cues: they tell 16"):
        load_dataset("trispectral", cues=CUES[:2], train_identities=8, test_identities=8)


def test_pictures_are_painted_once_and_only_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(trispectral_figures, "REMEMBERED", 5)
    splits = load_dataset("trispectral", **{**MANY, "train_identities": 2}, val_identities=0, **NATIVE)
    painter, fresh = splits.query.read, pickle.loads(pickle.dumps(splits.query.read))
    assert painter is splits.train.read
    paint, painted = trispectral_figures.FigurePainter._paint, []
    monkeypatch.setattr(
        trispectral_figures.FigurePainter, "_paint", lambda self, x: painted.append(x) or paint(self, x)
    )
    first = [splits.query[i][0] for i in range(6)]
    again = [splits.query[i][0] for i in range(6)]
    assert len(painted) == 7  # the sixth is not kept
    assert len(painter.painted) == 5
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for picture in painter(splits.query.items[0]):
        picture.paste(0, (0, 0, 64, 128))  # what a reader does to its copy is its own affair
    assert torch.equal(splits.query[0][0], first[0])
    assert not fresh.painted
    assert [np.asarray(x).tobytes() for x in fresh(splits.query.items[2])] == [
        np.asarray(x).tobytes() for x in painter(splits.query.items[2])
    ]
