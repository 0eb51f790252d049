"""Metrics by name: those that come with moezoo against scikit-learn's own, and anyone's own."""

import pytest
import torch
from sklearn import metrics as sk

import moezoo
from moezoo.errors import InputError, RegistrationError, UnknownModelError
from moezoo.eval import compute_metrics
from moezoo.parts import metrics


@pytest.fixture
def registered(monkeypatch):
    """The registry, left as it was afterwards."""
    monkeypatch.setattr(metrics, "_items", dict(metrics._items))


def test_the_metrics_that_come_with_moezoo_are_scikit_learns():
    torch.manual_seed(0)
    logits, labels = torch.randn(200, 5), torch.randint(5, (200,))
    probs, predicted = logits.softmax(-1), logits.argmax(-1)
    found = compute_metrics(logits, labels)
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert found["macro_f1"] == pytest.approx(sk.f1_score(labels, predicted, average="macro"))
    truth = torch.nn.functional.one_hot(labels, 5)
    assert found["brier_score"] == pytest.approx(float(((probs - truth) ** 2).sum(-1).mean()), rel=1e-5)
    # A rare class weighs as much as a common one, and one that does not occur nothing.
    logits = torch.eye(3)[[0, 0, 0, 0, 2]]
    assert compute_metrics(logits, torch.tensor([0, 0, 0, 0, 1]), ["balanced_accuracy"]) == {"balanced_accuracy": 0.5}


def test_anyones_metric_is_found_by_name_and_sees_only_images_with_an_answer(registered):
    @moezoo.register_metric("rows")
    def rows(logits, labels):
        return {"images": len(labels), "classes": torch.tensor(logits.shape[1])}

    logits = torch.zeros(4, 3)
    logits[2] = float("nan")
    assert compute_metrics(logits, torch.zeros(4), ["rows"]) == {"rows.images": 3, "rows.classes": 3}
    assert compute_metrics(logits[2:3], torch.zeros(1)) == {}
    with pytest.raises(RegistrationError, match="already registered"):
        moezoo.register_metric("rows")(rows)


def test_a_metric_that_is_unknown_or_returns_no_number_is_named(registered):
    moezoo.register_metric("words")(lambda logits, labels: "many")
    with pytest.raises(RegistrationError, match="'words' returned 'many'"):
        compute_metrics(torch.zeros(1, 2), torch.zeros(1), ["words"])
    with pytest.raises(UnknownModelError, match="Did you mean: macro_f1"):
        compute_metrics(torch.zeros(1, 2), torch.zeros(1), ["macro_f2"])
    with pytest.raises(InputError, match="0 to 1"):
        compute_metrics(torch.zeros(1, 2), torch.tensor([2]))
