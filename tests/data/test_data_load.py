from types import SimpleNamespace

import pytest
import torch

from moezoo.data import ImageTensors, Splits, input_options, load_dataset, register_dataset
from moezoo.errors import ConfigError, InputError, RegistrationError, UnknownModelError
from moezoo.parts import datasets


@pytest.fixture
def registered(monkeypatch):
    """Registrations of a test end with it."""
    monkeypatch.setattr(datasets, "_items", dict(datasets._items))


def toy_splits(**_):
    part = ImageTensors(torch.zeros(4, 1, 2, 2), torch.tensor([0, 1, 0, 1]))
    return Splits("toy", part, part, part, ("a", "b"), (0.5,), (0.5,))


def test_an_unknown_name_gets_the_nearest_spelling():
    with pytest.raises(UnknownModelError, match="Did you mean: digits"):
        load_dataset("digitz")


def test_a_registered_function_is_found_and_gets_its_options(registered):
    seen = {}

    @register_dataset("toy")
    def toy(*, input_size, mean, std, side: int = 2):
        seen.update(input_size=input_size, side=side)
        return toy_splits()

    splits = load_dataset("toy", input_size=(1, 2, 2), mean=(0.5,), std=(0.5,), side=3)
    assert splits.num_classes == 2
    assert seen == {"input_size": (1, 2, 2), "side": 3}
    with pytest.raises(ConfigError, match="side"):
        load_dataset("toy", side="3")


def test_a_second_registration_of_a_name_is_refused(registered):
    register_dataset("toy")(toy_splits)
    with pytest.raises(RegistrationError, match="already registered"):
        register_dataset("toy")(toy_splits)
    with pytest.raises(RegistrationError, match="already registered"):
        register_dataset("digits")(toy_splits)


def test_a_function_that_returns_something_else_is_refused(registered):
    register_dataset("broken")(lambda **_: ([], []))
    with pytest.raises(RegistrationError, match=r"moezoo\.data\.Splits"):
        load_dataset("broken")


def test_input_options_are_the_models_own():
    model = SimpleNamespace(pretrained_cfg={"input_size": [3, 9, 9], "mean": [0.1] * 3, "std": [0.2] * 3})
    options = {"input_size": (3, 9, 9), "mean": (0.1,) * 3, "std": (0.2,) * 3}
    assert input_options(model) == options
    with pytest.raises(ConfigError, match="pretrained_cfg"):
        input_options(torch.nn.Linear(1, 1))


def test_images_and_labels_must_fit():
    with pytest.raises(InputError, match="N labels"):
        ImageTensors(torch.zeros(4, 1, 2, 2), torch.zeros(3))
