import dataclasses

import pytest

from moezoo.config import decode
from moezoo.errors import ConfigError
from moezoo.train import TrainingConfig
from moezoo.train.config import LIVE_FIELDS


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
        {"grad_accum_steps": 0},
        {"lr_backbone": 0.0},
        {"lr_moe": -1.0},
        {"lr_head": 0.0},
        {"layer_decay": 1.5},
        {"mixup": -0.1},
        {"cutmix": -0.1},
        {"ema_decay": 1.0},
        {"early_stopping": 0},
        {"on_nonfinite": "ignore"},
        {"max_skipped_steps": -1},
        {"max_bad_files": -1},
        {"save_every": 0},
        {"keep_checkpoints": -1},
        {"on_full_disk": "wait"},
        {"log_every": 0},
        {"parallel": "tensor"},
        {"expert_parallel": 0},
        {"dist_timeout": 0.0},
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


def test_what_a_resumed_run_may_change_are_options():
    assert {f.name for f in dataclasses.fields(TrainingConfig)} >= LIVE_FIELDS
