"""Drawn digits and shapes: the same whenever they are read, and what is said of them is true."""

import hashlib
import itertools
import re

import pytest
import torch

from moezoo.data import load_dataset
from moezoo.data.captioned import shuffled_captions
from moezoo.data.generated.scenes import COLOURS, KINDS, PLACES, SWAY, Scene, Shape, combinations
from moezoo.errors import ConfigError, DataError

UNIT = {"mean": (0.0,), "std": (1.0,)}
FEW = {"train_images": 60, "val_images": 20, "test_images": 40}


@pytest.mark.parametrize("name", ["cluttered_digits", "shapes"])
def test_the_seed_alone_decides_and_more_images_change_none(name):
    torch.manual_seed(1)
    one = load_dataset(name, **FEW)
    torch.manual_seed(2)
    more = load_dataset(name, **{**FEW, "test_images": 50})
    other = load_dataset(name, seed=1, **FEW)
    for i in (0, 39):
        assert torch.equal(one.test[i][0], more.test[i][0])
        assert one.test[i][1] == more.test[i][1]
        assert torch.equal(one.test[i][0], one.test[i][0])
        assert not torch.equal(one.test[i][0], other.test[i][0])
    for bad in ({"seed": -1}, {"noise": 2.0}, {"train_images": 0}):
        with pytest.raises(ConfigError, match=next(iter(bad))):
            load_dataset(name, **bad)


def test_the_digit_is_in_its_box_and_can_be_read_there():
    clean = load_dataset("cluttered_digits", noise=0.0, **FEW, **UNIT)
    bare = load_dataset("cluttered_digits", noise=0.0, clutter=0, **FEW, **UNIT)
    for part, plain in ((clean.train, bare.train), (clean.test, bare.test)):
        for i in range(20):
            left, top, right, bottom = (round(64 * v) for v in part.box(i))
            assert (right - left, bottom - top) == (20, 20)
            digit, alone = part[i][0][0], plain[i][0][0]
            inside = torch.zeros(64, 64, dtype=torch.bool)
            inside[top:bottom, left:right] = True
            assert torch.equal(digit[inside], alone[inside])  # no scrap touches it
            assert alone[~inside].max() == 0
            assert digit[~inside].max() > 0.5
            assert alone[inside].max() > 0.5
            assert part[i][1] == plain[i][1]
    large = load_dataset("cluttered_digits", input_size=(3, 128, 96), **FEW, **UNIT)
    assert large.test[0][0].shape == (3, 128, 96)
    assert large.test.box(0) == clean.test.box(0)  # in shares of the sides, so of any size
    with pytest.raises(ConfigError, match="digit_size"):
        load_dataset("cluttered_digits", digit_size=40)


def test_no_digit_is_in_two_parts():
    splits = load_dataset("cluttered_digits", **FEW)
    rows = {name: {tuple(d.ravel()) for d in getattr(splits, name).read.pixels} for name in ("train", "val", "test")}
    assert sum(map(len, rows.values())) == 1797
    assert min(map(len, rows.values())) > 350
    for one, two in itertools.combinations(rows.values(), 2):
        assert not one & two


def is_true(sentence, scene):
    """Whether a sentence holds, read word by word from the scene's shapes and places."""
    shapes = {s.name: s for s in scene.shapes}
    name = f"(?:{'|'.join(COLOURS)}) (?:{'|'.join(KINDS)})"
    if found := re.fullmatch(rf"the ({name}) is (left of|right of|above|below) the ({name})", sentence):
        a, b = shapes[found[1]], shapes[found[3]]
        return {"left of": a.x < b.x, "right of": a.x > b.x, "above": a.y < b.y, "below": a.y > b.y}[found[2]]
    if found := re.fullmatch(rf"the ({name}) is (small|large)", sentence):
        return shapes[found[1]].size == found[2]
    if found := re.fullmatch(rf"there are (two|three) shapes, one of them is an? ({name})", sentence):
        return {"two": 2, "three": 3}[found[1]] == len(shapes) and found[2] in shapes
    if found := re.fullmatch(rf"there is one shape, an? ({name})", sentence):
        return [found[1]] == list(shapes)
    if found := re.fullmatch(rf"the ({name}) is ({'|'.join(PLACES)})", sentence):
        return is_near(shapes[found[1]], found[2])
    if sentence.startswith("a picture of "):
        return re.findall(name, sentence) == list(shapes)
    whole = re.fullmatch(r"(.*) on an? (white|grey|black) background", sentence)
    if found := re.fullmatch(rf"the ({name}) is", whole[1]):
        return whole[2] == scene.background and found[1] in shapes
    told = re.findall(rf"an? (small|large) ({name})(?: ({'|'.join(sorted(PLACES, key=len, reverse=True))}))?", whole[1])
    near = all(is_near(shapes[name], place) for _, name, place in told if place)
    return (
        whole[2] == scene.background and near and [row[:2] for row in told] == [(s.size, s.name) for s in scene.shapes]
    )


def is_near(shape, place):
    """The place read off the words and the pixels: thirds of the picture from 64 pixels, to the nearest."""
    words = place.split()
    across = "left" if "left" in words else "right" if "right" in words else "middle"
    down = "top" if "top" in words else "bottom" if "bottom" in words else "middle"
    thirds = "left" if shape.x < 22 else "right" if shape.x > 42 else "middle"
    return (across, down) == (thirds, "top" if shape.y < 22 else "bottom" if shape.y > 42 else "middle")


def test_every_sentence_about_shapes_is_true_of_the_picture():
    splits = load_dataset("shapes", noise=0.0, **FEW, **UNIT)
    kinds = set()
    for part in (splits.train, splits.test):
        for i in range(len(part)):
            scene, (image, captions) = part.scene(i), part[i]
            assert len(set(captions)) == 5
            for sentence in captions:
                assert is_true(sentence, scene), sentence
                assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", sentence), sentence
                kinds.add(re.sub(f"{'|'.join((*COLOURS, *KINDS))}", "·", sentence))
            for shape in scene.shapes:  # the picture has the colour where the scene says
                assert torch.allclose(image[:, shape.y, shape.x] * 255, torch.tensor(COLOURS[shape.colour]).float())
    assert len(kinds) > 12
    assert not is_true("the red circle is above the blue square", _two("red circle", "blue square", 40, 10))


ONE = {"num_shapes": (1, 1), "places": True, "train_images": 400, "val_images": 60, "test_images": 60}


def test_one_shape_is_named_with_its_place_and_everything_said_of_it_is_true():
    splits = load_dataset("shapes", noise=0.0, **ONE, **UNIT)
    seen, kinds = set(), set()
    for i in range(len(splits.train)):
        scene, captions = splits.train.scene(i), splits.train.captions(i)
        assert len(scene.shapes) == 1
        assert len(set(captions)) == 5
        assert all(is_true(sentence, scene) for sentence in captions), captions
        shape = scene.shapes[0]
        assert max(abs(a - b) for a, b in zip(PLACES[shape.place], (shape.x, shape.y), strict=True)) <= SWAY
        assert f" {shape.place} on " in captions[0]
        seen.add(shape.place)
        kinds.update(re.sub(f"{'|'.join((*COLOURS, *KINDS, *PLACES))}", "·", sentence) for sentence in captions)
    assert seen == set(PLACES)
    assert len(kinds) > 8
    assert not is_true(captions[0].replace(shape.size, {"small": "large", "large": "small"}[shape.size]), scene)
    for options in ({"num_shapes": (1, 4), "places": True}, {"num_shapes": (4, 4)}):
        crowded = load_dataset("shapes", **FEW, **options)
        counts = {len(crowded.test.scene(i).shapes) for i in range(40)}
        assert counts == set(range(options["num_shapes"][0], 5))
        for i in range(40):
            assert all(is_true(s, crowded.test.scene(i)) for s in crowded.test.captions(i) if "four" not in s)


def test_shapes_are_named_from_left_to_right_and_by_as_many_sentences_as_asked():
    plain = load_dataset("shapes", **FEW)
    ordered = load_dataset("shapes", left_to_right=True, num_captions=1, **FEW)
    for i in range(20):
        assert len(ordered.test.captions(i)) == 1
        shapes = ordered.test.scene(i).shapes
        assert [shape.x for shape in shapes] == sorted(shape.x for shape in shapes)
        assert set(shapes) == set(plain.test.scene(i).shapes)
        assert is_true(ordered.test.captions(i)[0], ordered.test.scene(i))
        assert torch.equal(ordered.test[i][0], plain.test[i][0])
        two = load_dataset("shapes", num_captions=2, **FEW).test.captions(i) if i < 2 else plain.test.captions(i)[:2]
        assert two[0] == plain.test.captions(i)[0]
        assert len(two) == 2


def shown(part, which):
    """Every combination in each image of a part."""
    keys = {"colour-kind": lambda s, b: (s.colour, s.kind), "all": lambda s, b: (s.size, s.colour, s.kind, b)}
    scenes = [part.scene(i) for i in range(len(part))]
    return [{keys[which](shape, scene.background) for shape in scene.shapes} for scene in scenes]


@pytest.mark.parametrize("which", ["colour-kind", "all"])
@pytest.mark.parametrize("num_shapes", [(1, 1), (2, 3)])
def test_held_out_combinations_are_in_no_training_image_and_in_every_other_one(which, num_shapes):
    options = {**ONE, "num_shapes": num_shapes, "held_out": 0.25, "combination": which, "places": False}
    splits = load_dataset("shapes", **options)
    train = set().union(*shown(splits.train, which))
    parts = {"val": shown(splits.val, which), "test": shown(splits.test, which)}
    held = {name: set(getattr(splits, name).read.allowed.needed) for name in parts}
    assert not held["val"] & held["test"]
    assert len(held["val"] | held["test"]) == len(combinations(which)) // 4
    assert not train & (held["val"] | held["test"])
    for (name, part), other in zip(parts.items(), (held["test"], held["val"]), strict=True):
        assert all(image & held[name] and not image & other for image in part)
    assert {word for words in train for word in words} == {word for words in combinations(which) for word in words}
    again = load_dataset("shapes", **options)
    assert again.test.read.allowed == splits.test.read.allowed
    assert load_dataset("shapes", **{**options, "seed": 1}).test.read.allowed != splits.test.read.allowed


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_shapes": (0, 2)}, r"num_shapes=\(0, 2\)"),
        ({"num_shapes": (3, 2)}, r"num_shapes=\(3, 2\)"),
        ({"num_shapes": (2, 5)}, "from 1 to 4"),
        ({"num_captions": 6}, "num_captions=6"),
        ({"held_out": 0.6}, "held_out=0.6"),
        ({"held_out": 0.03}, r"at least 0\.083"),
        ({"combination": "color"}, "combination"),
    ],
)
def test_scenes_that_cannot_be_are_refused(options, says):
    with pytest.raises(ConfigError, match=says):
        load_dataset("shapes", **FEW, **options)


def test_what_was_drawn_before_there_were_options_is_drawn_still():
    digest, splits = hashlib.sha256(), load_dataset("shapes", seed=7, **FEW)
    for part in (splits.train, splits.val, splits.test):
        for i in (0, 7, 19):
            digest.update(repr([part.captions(i), [(s.x, s.y) for s in part.scene(i).shapes]]).encode())
    assert digest.hexdigest() == "a961ebfad32cdea0f124022fe285a05d196e05595fe0463fa0fedcf969d12594"


def test_shuffled_captions_are_those_of_another_image_and_each_is_used_once():
    train = load_dataset("shapes", **FEW).train
    other, again, third = shuffled_captions(train), shuffled_captions(train), shuffled_captions(train, seed=1)
    captions = [train.captions(i) for i in range(60)]
    mixed = [other.captions(i) for i in range(60)]
    assert sorted(mixed) == sorted(captions)
    assert not any(a == b for a, b in zip(mixed, captions, strict=True))
    assert [again.captions(i) for i in range(60)] == mixed != [third.captions(i) for i in range(60)]
    assert torch.equal(other[3][0], train[3][0])
    assert other[3][1] == mixed[3]
    assert other.scene(3) == train.scene(3)
    with pytest.raises(DataError, match="two or more"):
        shuffled_captions(load_dataset("shapes", **{**FEW, "train_images": 1}).train)


def _two(first, second, first_y, second_y):
    (c1, k1), (c2, k2) = first.split(), second.split()
    return Scene("grey", (Shape(c1, k1, "small", 20, first_y), Shape(c2, k2, "small", 20, second_y)))
