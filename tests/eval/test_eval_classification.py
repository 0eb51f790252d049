import itertools
import logging
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from moezoo.errors import ConfigError, InputError
from moezoo.eval import calibration_error, classification_metrics
from moezoo.eval.answers import check_same_classes
from moezoo.eval.tables import labels_table


def test_figures_of_a_case_worked_out_by_hand():
    # true 0 0 1 1 2; predicted 0 1 1 1 0
    logits = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 4.0, 0], [1, 4.0, 0], [4.0, 0, 1]])
    result = classification_metrics(logits, torch.tensor([0, 0, 1, 1, 2]), ["x", "y", "z"])
    assert result.samples == 5
    assert result.top1 == pytest.approx(3 / 5)
    assert result.top5 is None
    assert result.confusion == ((1, 1, 0), (0, 2, 0), (1, 0, 0))
    x, y, z = result.labels
    assert (x.label, x.precision, x.recall, x.support) == ("x", 0.5, 0.5, 2)
    assert (y.precision, y.recall) == (pytest.approx(2 / 3), 1.0)
    assert (z.precision, z.recall, z.f1) == (0.0, 0.0, 0.0)
    loss = -torch.log_softmax(logits, -1)[torch.arange(5), torch.tensor([0, 0, 1, 1, 2])].mean()
    assert result.loss == pytest.approx(float(loss))


def test_top5_counts_the_five_largest():
    logits = torch.arange(8.0).repeat(8, 1)  # class 7 first, then 6, 5, 4, 3
    result = classification_metrics(logits, torch.arange(8))
    assert result.top1 == pytest.approx(1 / 8)
    assert result.top5 == pytest.approx(5 / 8)


def test_calibration_error_equals_a_plain_loop_over_bins():
    torch.manual_seed(0)
    probs = (3 * torch.randn(500, 6, dtype=torch.float64)).softmax(-1)
    labels = torch.randint(6, (500,))
    confidence, right = probs.max(-1).values.numpy(), (probs.argmax(-1) == labels).numpy()
    expected = 0.0
    for low, high in itertools.pairwise(np.linspace(0, 1, 16)):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(probs, labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_a_sure_and_right_model_is_zero_and_of_a_wrong_one_is_one():
    probs = torch.eye(4)
    assert calibration_error(probs, torch.arange(4)) == 0
    assert calibration_error(probs, torch.tensor([1, 2, 3, 0])) == 1


@pytest.mark.parametrize(
    ("logits", "labels", "names", "says"),
    [
        (torch.zeros(0, 3), torch.zeros(0), None, "at least 1"),
        (torch.zeros(2, 3), torch.zeros(3), None, "N labels"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), None, "0 to 2"),
        (torch.zeros(2, 3), torch.tensor([0, 1]), ["a"], "3 names"),
    ],
)
def test_what_does_not_fit_is_an_error(logits, labels, names, says):
    with pytest.raises(InputError, match=says):
        classification_metrics(logits, labels, names)


def test_an_answer_of_nan_is_counted_and_wrong_and_spoils_no_other_figure():
    logits = torch.tensor([[4.0, 0, 0], [0, 4.0, 0], [0, 0, 4.0], [float("nan"), 0, 0], [float("inf"), 0, 0]])
    labels = torch.tensor([0, 1, 1, 0, 2])
    result = classification_metrics(logits, labels)
    assert (result.samples, result.nonfinite) == (5, 2)
    assert result.top1 == pytest.approx(2 / 5)
    assert result.confusion == ((1, 0, 0), (0, 1, 1), (0, 0, 0))
    assert [label.support for label in result.labels] == [2, 2, 1]
    assert result.labels[0].recall == pytest.approx(1 / 2)
    fine = classification_metrics(logits[:3], labels[:3])
    assert (result.loss, result.calibration_error) == (fine.loss, fine.calibration_error)
    none = classification_metrics(torch.full((2, 7), float("nan")), torch.tensor([0, 6]))
    assert (none.top1, none.top5, none.nonfinite, none.reliability) == (0, 0, 2, ())
    assert math.isnan(none.loss)


def test_a_class_that_is_ruled_out_is_an_answer_all_the_same():
    logits = torch.tensor([[4.0, -math.inf, 0, 1, 2, 3, 1], [0, 4.0, -math.inf, 1, 2, 3, 1]])
    result = classification_metrics(logits, torch.tensor([0, 1]))
    assert (result.top1, result.top5, result.nonfinite) == (1, 1, 0)
    assert math.isfinite(result.loss)


def test_the_bins_of_confidence_add_up_to_the_images_and_to_their_calibration_error():
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(400, 6), torch.randint(6, (400,))
    result = classification_metrics(logits, labels)
    assert sum(each.count for each in result.reliability) == 400
    assert all(each.low < each.confidence <= each.high for each in result.reliability)
    right = sum(each.count * each.accuracy for each in result.reliability)
    assert right == pytest.approx(400 * result.top1)
    gaps = sum(each.count * abs(each.accuracy - each.confidence) for each in result.reliability)
    assert result.calibration_error == pytest.approx(gaps / 400)


def test_names_of_classes_tell_that_a_model_belongs_to_another_data_set(caplog):
    with caplog.at_level(logging.WARNING):
        for names in (None, ("cat", "dog")):
            check_same_classes(names, ["cat", "dog"])
        assert caplog.messages == []
        check_same_classes(("cat", "dog"), ["0", "1"])
    assert "cat, dog; the data set's are 0, 1" in caplog.text
    with pytest.raises(ConfigError, match="another order"):
        check_same_classes(("dog", "cat"), ["cat", "dog"])


def test_brackets_in_the_name_of_a_class_are_no_markup():
    console = Console(width=100)
    result = classification_metrics(torch.eye(2), torch.tensor([0, 1]), ["cat [bold]", "[/] dog"])
    with console.capture() as captured:
        console.print(labels_table(result))
    assert "cat [bold]" in captured.get()
    assert "[/] dog" in captured.get()
