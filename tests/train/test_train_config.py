import pytest

from moezoo.config import decode
from moezoo.errors import ConfigError
from moezoo.train import TrainingConfig


@pytest.mark.parametrize(
    "values",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"lr": 0.0},
        {"min_lr": 1.0},
        {"weight_decay": -0.1},
        {"warmup_epochs": 31},
        {"label_smoothing": 1.0},
        {"grad_clip": 0.0},
        {"seed": -1},
        {"num_workers": -1},
        {"device": "gpu"},
        {"mixed_precision": "fp8"},
        {"epochs": "3"},
        {"epochs": True},
    ],
)
def test_a_value_out_of_range_is_named(values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        decode(TrainingConfig, values)


def test_an_unknown_key_gets_the_nearest_spelling():
    with pytest.raises(ConfigError, match="Did you mean: weight_decay"):
        decode(TrainingConfig, {"weight_decy": 0.1})


def test_every_wrong_value_is_in_the_message():
    with pytest.raises(ConfigError, match=r"lr=-1\.0.*weight_decay=-2\.0"):
        decode(TrainingConfig, {"lr": -1.0, "min_lr": -1.0, "weight_decay": -2.0})
