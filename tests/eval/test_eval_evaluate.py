import json

import pytest
import torch
from torch import nn

from moezoo.data import ImageTensors
from moezoo.errors import InputError
from moezoo.eval import evaluate, predict
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


def test_an_empty_data_set_is_an_error():
    with pytest.raises(InputError, match="empty"):
        predict(Toy(), ImageTensors(torch.zeros(0, 1, 2, 2), torch.zeros(0)))
