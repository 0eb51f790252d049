"""The check sees frozen experts and frozen batches, and says what it could not see."""

import pytest
import torch
from torch import nn

from moezoo.errors import ExportError
from moezoo.export import Parity, export_model
from moezoo.export.parity import compare, decisions, other_images, plain_images, reached, steady
from moezoo.moe import MoELayer


def layer(num_experts=4, **args):
    model = MoELayer(8, num_experts=num_experts, hidden_dim=5, **args).eval()
    with torch.no_grad():
        model.router.weight.normal_()
    return model


class Frozen(nn.Module):
    """Traced, it computes one of its experts, whatever the router says."""

    def __init__(self):
        super().__init__()
        self.moe = layer()

    def forward(self, x):
        if torch.compiler.is_exporting():
            e, mlp = self.moe.experts, nn.functional
            routing = self.moe.router(x.flatten(0, 1))
            hidden = mlp.gelu(mlp.linear(x, e.w_in[0], e.b_in[0]))
            return mlp.linear(hidden, e.w_out[0], e.b_out[0]) * routing.weight.view(*x.shape[:2], 1)
        return self.moe(x)


@pytest.mark.parametrize("format", ["onnx", "pt2"])
def test_frozen_experts_are_found_and_no_file_stays(format, tmp_path):
    old = tmp_path / f"model.{format}"
    old.write_text("an earlier file")
    with pytest.raises(ExportError, match="does not compute what the model does: relative error"):
        export_model(Frozen(), old, format=format, input_size=(5, 8))
    assert [path.name for path in tmp_path.iterdir()] == [old.name]
    assert old.read_text() == "an earlier file"


def test_the_compared_images_reach_experts_that_tracing_did_not():
    model = layer()
    with torch.no_grad():
        traced = plain_images(model, torch.zeros(2, 5, 8))
        images = other_images(model, traced, 3)
        assert reached(decisions(model, images)) - reached(decisions(model, traced))
        assert steady(model, images)
    assert len(images) == 3


def test_a_near_tie_is_not_steady_and_is_passed_over():
    model = layer(num_experts=2)
    with torch.no_grad():
        model.router.weight.copy_(torch.eye(2, 8))
        tied, clear = torch.ones(1, 1, 8), torch.ones(1, 1, 8)
        clear[..., 0] = 2.0
        assert not steady(model, tied)
        assert steady(model, clear)


@pytest.mark.parametrize(
    ("model", "words", "new", "traced"),
    [
        (layer(num_experts=1), "tracing reached all 1 experts already", 0, 1),
        (nn.Linear(8, 3), "the model has no MoE layers", 0, 0),
    ],
    ids=["one expert", "no MoE"],
)
def test_it_says_when_no_other_expert_can_be_reached(model, words, new, traced, tmp_path):
    parity = export_model(model, tmp_path / "m.pt2", format="pt2", input_size=(5, 8)).parity
    assert (parity.pairs_new, parity.pairs_traced) == (new, traced)
    assert words in str(parity)


def test_it_says_when_some_experts_are_never_reached(tmp_path):
    model = layer(num_experts=4)
    with torch.no_grad():
        model.router.weight.zero_()  # every token ties, and goes to the first expert
    parity = export_model(model, tmp_path / "m.pt2", format="pt2", input_size=(5, 8)).parity
    assert parity.pairs_new == 0
    assert "no input was found that reaches more than tracing's 1 of 4 experts" in str(parity)


def test_it_says_when_the_output_does_not_depend_on_the_experts(tmp_path):
    class Fresh(nn.Module):
        def __init__(self):
            super().__init__()
            self.moe, self.scale = layer(), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return x + self.scale * self.moe(x)

    model = Fresh()
    parity = export_model(model, tmp_path / "m.pt2", format="pt2", input_size=(5, 8)).parity
    assert not parity.experts_matter
    assert "hides its experts" in str(parity)
    nn.init.ones_(model.scale)
    parity = export_model(model, tmp_path / "m.pt2", format="pt2", input_size=(5, 8)).parity
    assert parity.experts_matter
    assert "hides" not in str(parity)


def test_an_output_that_is_not_finite_is_refused(tmp_path):
    model = layer()
    nn.init.constant_(model.experts.b_out, float("nan"))
    with pytest.raises(ExportError, match="NaN or infinity"):
        export_model(model, tmp_path / "m.pt2", format="pt2", input_size=(5, 8))
    assert not list(tmp_path.iterdir())


class TwoOutputs(nn.Module):
    def forward(self, x):
        return x, 2 * x


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("batch", [3, 1])
@pytest.mark.parametrize("output", [0, 1])
def test_one_wrong_number_in_any_output_at_any_batch_is_found(wrong, batch, output):
    model = TwoOutputs()

    def run(images):
        made = [y.clone() for y in model(images)]
        if len(images) == batch:
            made[output][-1, -1] = wrong
        return made

    with torch.no_grad(), pytest.raises(ExportError, match=f"relative error {wrong}, allowed"):
        compare(model, run, torch.ones(2, 4), (3, 1), 1e-4)
    with torch.no_grad():
        assert compare(model, model, torch.ones(2, 4), (3, 1), 1e-4).max_relative_error == 0


def test_the_summary_names_error_limit_and_batches():
    text = str(Parity(2e-7, 1e-4, (3, 1), 8, 2, 5, True))
    assert (
        text == "relative error 2.0e-07 (limit 1e-04) at batch 3, 1; 5 of 8 experts were reached that tracing had not"
    )
