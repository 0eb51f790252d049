"""What experts are used for: frequencies, their change, and what they tell about the content."""

import json

import numpy as np
import pytest
import torch

from moezoo.errors import ConfigError, InputError, NonFiniteError
from moezoo.eval import analyze_expert_activation_patterns

FIRST = [[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.05, 0.05, 0.9]]
SECOND = [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.1, 0.8, 0.1], [0.05, 0.9, 0.05]]


def test_frequencies_and_their_change_over_time():
    found = analyze_expert_activation_patterns([torch.tensor(FIRST), np.array(SECOND)], experts=np.array([4, 8, 16]))
    assert found.experts == ("4 x 4", "8 x 8", "16 x 16")
    assert found.samples == (4, 4)
    assert np.allclose(found.mean_weight, [np.mean(FIRST, 0), np.mean(SECOND, 0)])
    assert found.first == ((0.5, 0.25, 0.25), (0.25, 0.75, 0))
    assert found.frequency == found.first[1]
    above = [(np.array(np.float64(torch.tensor(FIRST))) > 0.1).mean(0), (np.array(SECOND) > 0.1).mean(0)]
    assert np.allclose(found.activation, above)
    moved = np.mean(SECOND, 0) - np.mean(FIRST, 0)
    assert found.change == pytest.approx((np.abs(moved).sum() / 2,))
    assert found.switched == (0.5,)
    assert np.allclose(found.trend, moved, atol=1e-7)
    three = analyze_expert_activation_patterns([FIRST, SECOND, SECOND[:2]])
    assert three.switched is None  # other samples
    line = np.polyfit([0, 1, 2], [np.mean(each, 0) for each in (FIRST, SECOND, SECOND[:2])], 1)[0]
    assert np.allclose(three.trend, line)
    assert json.loads(json.dumps(three.to_dict()))["experts"] == ["expert 0", "expert 1", "expert 2"]


def test_the_information_about_content_is_the_mutual_information_of_the_joint_shares():
    camera = ["a", "a", "b", "b"]
    found = analyze_expert_activation_patterns(np.array(SECOND), {"camera": camera}).content[0]
    weights, joint = np.array(SECOND), np.zeros((2, 3))
    for row, name in zip(weights, camera, strict=True):
        joint["ab".index(name)] += row / len(weights)
    independent = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    assert found.information == pytest.approx((joint * np.log2(joint / independent)).sum())
    assert np.allclose(found.share, [weights[:2].mean(0), weights[2:].mean(0)])
    assert (found.values, found.counts, found.entropy) == (("a", "b"), (2, 2), 1.0)
    numbered = {"list of tensors": list(torch.tensor([3, 3, 5, 5])), "array": np.array([3, 3, 5, 5])}
    for relation in analyze_expert_activation_patterns(np.array(SECOND), numbered).content:
        assert (relation.values, relation.counts) == (("3", "5"), (2, 2))
        assert relation.information == pytest.approx(found.information)


def test_a_planted_relation_is_found_and_chance_is_told_apart():
    rng = np.random.default_rng(0)
    camera, identity = rng.integers(3, size=120), rng.integers(40, size=120)
    weights = np.eye(3)[camera] * 0.8 + 0.2 / 3
    found = {
        each.name: each
        for each in analyze_expert_activation_patterns(
            torch.tensor(weights), {"camera": camera, "identity": torch.tensor(identity)}
        ).content
    }
    assert found["camera"].excess > 0.8
    assert found["identity"].information > 0.2  # 3 samples of each look alike by chance
    assert found["identity"].excess < 0.1
    assert found["camera"].chance < 0.05


@pytest.mark.parametrize(
    ("history", "options", "error", "match"),
    [
        ([], {}, InputError, "at least one moment"),
        ([np.zeros((3, 2)), np.zeros((3, 4))], {}, InputError, "same experts"),
        ([np.zeros(3)], {}, InputError, r"history\[0\]"),
        ([np.full((2, 2), np.nan)], {}, NonFiniteError, "NaN"),
        (np.zeros((3, 2)), {"experts": (4, 8, 16)}, InputError, "3 names"),
        (np.zeros((3, 2)), {"content": {"camera": [1]}}, InputError, "each of 3 samples"),
        (np.zeros((3, 2)), {"threshold": 2}, ConfigError, "threshold"),
        (np.zeros((3, 2)), {"threshold": True}, ConfigError, "threshold"),
        (np.full((3, 2), -1.0), {}, InputError, r"history\[0\] must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_analysed_is_an_error(history, options, error, match):
    with pytest.raises(error, match=match):
        analyze_expert_activation_patterns(history, **options)
