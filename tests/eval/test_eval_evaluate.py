import json

import pytest
import torch
from image_files import save_digit
from torch import nn

import moezoo
from moezoo.data import ImageTensors
from moezoo.data.items import LabelledImages
from moezoo.errors import DataError, InputError
from moezoo.eval import evaluate, image_transform, predict
from moezoo.moe import MoELayer


class Toy(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.moe = MoELayer(4, num_experts=2, hidden_dim=8)
        self.head = nn.Linear(4, classes)

    def forward(self, images):
        return self.head(self.moe(self.norm(images.flatten(1))))


@pytest.fixture
def data():
    torch.manual_seed(0)
    return ImageTensors(torch.randn(10, 1, 2, 2), torch.arange(10) % 3)


def test_every_image_is_predicted_once_in_order_whatever_the_batch_size(data):
    model = Toy().eval()
    logits, labels, routing = predict(model, data, batch_size=4)
    assert torch.equal(labels, data.labels)
    assert torch.allclose(logits, model(data.images).detach(), atol=1e-6)
    assert routing[0].tokens == 10
    assert routing == predict(model, data, batch_size=10)[2]


def test_modules_return_to_the_mode_they_were_in_and_statistics_do_not_drift(data):
    model = Toy().train()
    model.norm.eval()  # frozen, as in fine-tuning
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, data)
    assert model.training
    assert model.moe.training
    assert not model.norm.training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_report_is_plain_data_and_agrees_with_the_logits(data):
    model = Toy()
    report = evaluate(model, data, label_names=["a", "b", "c"])
    logits, labels, _ = predict(model, data)
    assert report.classification.top1 == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
    assert json.loads(json.dumps(report.to_dict()))["routing"][0]["tokens"] == 10


def test_a_model_without_moe_layers_has_no_routing(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    assert evaluate(model, data).routing == ()


def test_evaluating_twice_gives_the_same_bits_also_after_training_steps_and_of_a_noisy_router(data):
    model = moezoo.create_model("entity_moe/test_vit", router="noisy_topk", num_classes=3)
    images = ImageTensors(torch.randn(6, 1, 16, 16), torch.arange(6) % 3)
    first, again = (predict(model, images, batch_size=4) for _ in range(2))
    assert torch.equal(first[0], again[0])
    assert first[2] == again[2]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    model(images.images).sum().backward()
    model.zero_grad()
    assert torch.equal(first[0], predict(model, images, batch_size=4)[0])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_nan_in_an_image_spoils_that_image_alone_and_every_token_is_still_counted():
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True)
    torch.manual_seed(0)
    images, labels = torch.randn(6, 1, 16, 16), torch.arange(6)
    clean = evaluate(model, ImageTensors(images, labels))
    spoilt = images.clone()
    spoilt[1, 0, 3, 3], spoilt[4] = float("nan"), float("inf")
    logits, _, _ = predict(model, ImageTensors(spoilt, labels))
    report = evaluate(model, ImageTensors(spoilt, labels), metrics=None)
    assert logits.isfinite().all(-1).tolist() == [True, False, True, True, False, True]
    assert torch.allclose(logits[[0, 2, 3, 5]], predict(model, ImageTensors(images, labels))[0][[0, 2, 3, 5]])
    assert report.classification.nonfinite == 2
    for load, before in zip(report.routing, clean.routing, strict=True):
        assert load.tokens == before.tokens
        assert sum(load.share) == pytest.approx(1)
    json.dumps(report.to_dict(), allow_nan=False)


def test_a_report_without_a_single_answer_is_still_json():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(model[1].weight, float("nan"))
    report = evaluate(model, ImageTensors(torch.randn(2, 1, 2, 2), torch.arange(2)), metrics=None)
    data = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert data["classification"]["loss"] is None
    assert data["metrics"] == {}


def test_half_precision_and_progress_and_metrics(data):
    model, seen = Toy().to(torch.bfloat16), []
    report = evaluate(model, data, batch_size=4, metrics=["macro_f1"], progress=seen.append)
    assert seen == [4, 4, 2]
    assert list(report.metrics) == ["macro_f1"]


def test_a_model_that_does_not_answer_with_logits_is_an_error(data):
    class Maps(nn.Module):
        def forward(self, images):
            return images

    with pytest.raises(InputError, match=r"Maps must answer 10 images .* got \(10, 1, 2, 2\)"):
        evaluate(Maps(), data)


def test_an_empty_data_set_is_an_error():
    with pytest.raises(InputError, match="empty"):
        predict(Toy(), ImageTensors(torch.zeros(0, 1, 2, 2), torch.zeros(0)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_file_ends_the_evaluation_and_is_named(tmp_path, num_workers):
    """A figure over fewer images, or over another one in its place, would be another figure."""
    paths = [save_digit(i, tmp_path / f"{i}.png") for i in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True)
    data = LabelledImages(paths, [0, 1, 2], image_transform(model))
    with pytest.raises(DataError, match=r"1\.png"):
        evaluate(model, data, batch_size=2, num_workers=num_workers)
    report = evaluate(model, LabelledImages([paths[0], paths[2]], [0, 2], image_transform(model)))
    assert report.classification.top1 == 1
