import pytest
import torch

from moezoo.data import load_dataset
from moezoo.errors import ConfigError


def all_images(dataset):
    return torch.stack([dataset[i][0] for i in range(len(dataset))])


def labels_of(dataset):
    return torch.tensor([dataset[i][1] for i in range(len(dataset))])


@pytest.fixture(scope="module")
def plain():
    return load_dataset("digits", input_size=(1, 8, 8), mean=(0.0,), std=(1.0,), augment=False)


def test_every_digit_of_scikit_learn_is_in_exactly_one_part(plain):
    from sklearn.datasets import load_digits

    parts = torch.cat([all_images(part) for part in (plain.train, plain.val, plain.test)])
    raw = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
    rows = sorted(map(tuple, parts.flatten(1).tolist()))
    assert len(rows) == 1797
    assert rows == sorted(map(tuple, raw.flatten(1).tolist()))


def test_parts_are_stratified_60_20_20(plain):
    assert [len(part) for part in (plain.train, plain.val, plain.test)] == [1077, 360, 360]
    for part in (plain.train, plain.val, plain.test):
        share = torch.bincount(labels_of(part), minlength=10) / len(part)
        assert share.min() > 0.09
        assert share.max() < 0.11


def test_split_seed_alone_decides_the_test_images(plain):
    torch.manual_seed(123)
    again = load_dataset("digits", input_size=(1, 8, 8), mean=(0.0,), std=(1.0,), augment=False)
    other = load_dataset("digits", input_size=(1, 8, 8), mean=(0.0,), std=(1.0,), augment=False, split_seed=1)
    assert torch.equal(all_images(again.test), all_images(plain.test))
    assert not torch.equal(all_images(other.test), all_images(plain.test))


def test_images_are_prepared_for_the_model_and_can_be_shown_again(plain):
    splits = load_dataset("digits", input_size=(3, 24, 24), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    image = splits.val[0][0]
    assert image.shape == (3, 24, 24)
    pixels = splits.to_pixels(image)
    assert torch.allclose(pixels[0], pixels[1], atol=1e-6)  # grey, although each channel was shifted differently
    assert not torch.allclose(image[0], image[1])
    small = torch.nn.functional.interpolate(pixels[None, :1], size=(8, 8), mode="area")
    assert torch.corrcoef(torch.stack([small.flatten(), plain.val[0][0].flatten()]))[0, 1] > 0.97


def test_only_training_images_are_augmented_and_outside_stays_black():
    splits = load_dataset("digits", input_size=(1, 16, 16), mean=(0.3,), std=(0.2,))
    torch.manual_seed(0)
    reads = [splits.train[0][0] for _ in range(8)]
    assert len({tuple(read.flatten().tolist()) for read in reads}) == 8
    assert torch.equal(splits.val[0][0], splits.val[0][0])
    assert torch.stack(reads).min() >= -0.3 / 0.2 - 1e-5
    assert all(torch.isclose(read.min(), torch.tensor(-1.5), atol=1e-4) for read in reads)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"input_size": (2, 8, 8)}, "input_size"),
        ({"std": (0.0,)}, "std"),
        ({"mean": (0.1, 0.2)}, "mean"),
        ({"shift": 1.5}, "shift"),
        ({"degrees": "12"}, "degrees"),
        ({"split_seed": -1}, "split_seed=-1 is not allowed"),
        ({"split_seed": 2**32}, "split_seed"),
        ({"agument": False}, "Did you mean: augment"),
    ],
)
def test_a_bad_option_is_named(options, says):
    with pytest.raises(ConfigError, match=says):
        load_dataset("digits", **options)
