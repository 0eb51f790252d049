"""Corruptions that can be repeated, and what they do to answers and to routing."""

import pytest
import torch
from torch import nn

import moezoo
from moezoo.data import ImageTensors, input_options, load_dataset
from moezoo.errors import InputError
from moezoo.eval import CORRUPTIONS, Blur, Noise, Shift, evaluate, first_expert, robustness
from moezoo.eval.corruptions import corrupt
from moezoo.moe import Routing


@pytest.mark.parametrize("size", [(1, 8, 8), (3, 5, 31), (1, 1, 1)])
def test_every_corruption_keeps_shape_and_range_and_its_seed_decides(size):
    torch.manual_seed(0)
    pixels = torch.rand(3, *size)
    for severities in CORRUPTIONS.values():
        for corruption in severities:
            changed = corrupt(pixels, corruption, [0, 1, 2])
            assert changed.shape == pixels.shape
            assert changed.min() >= 0
            assert changed.max() <= 1 + 1e-6
            assert torch.equal(changed[2:], corrupt(pixels[2:], corruption, [2]))  # other batches, the same image
    state = torch.get_rng_state()
    assert not torch.equal(corrupt(pixels, Noise(0.1), [0, 1, 2]), corrupt(pixels, Noise(0.1), [3, 4, 5]))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_has_its_strength_blur_keeps_the_mean_and_a_shift_moves_by_its_share():
    torch.manual_seed(0)
    grey = torch.full((1, 64, 64), 0.5)
    assert Noise(0.1)(grey).std() == pytest.approx(0.1, rel=0.05)
    dot = torch.zeros(1, 33, 33)
    dot[0, 16, 16] = 1
    blurred = Blur(1 / 16)(dot)
    assert blurred.sum() == pytest.approx(1, abs=1e-4)
    assert blurred.argmax() == dot.argmax()
    (place,) = Shift(0.25)(dot)[0].nonzero()
    assert float((place - 16).float().norm()) == pytest.approx(0.25 * 33, abs=0.8)


def test_the_report_agrees_with_evaluate_and_does_not_depend_on_the_batches():
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True).train()
    splits = load_dataset("digits", **input_options(model))
    part = torch.utils.data.Subset(splits.test, range(40))
    seen = []
    options = {"mean": splits.mean, "std": splits.std}
    found = robustness(model, part, **options, batch_size=16, progress=seen.append)
    assert model.training
    assert sum(seen) == 40 * (1 + sum(map(len, CORRUPTIONS.values())))
    assert found.clean_top1 == evaluate(model, part).classification.top1
    again = robustness(model, part, **options, batch_size=40)
    assert again == found
    assert robustness(model, part, **options, seed=1) != found
    by_kind = {kind: [each for each in found.corrupted if each.kind == kind] for kind in CORRUPTIONS}
    for cases in by_kind.values():
        assert [each.severity for each in cases] == [1, 2, 3]
        assert cases[0].kept > cases[2].kept
        assert 0 <= cases[0].mean_rerouted < cases[2].mean_rerouted < 1


def test_a_corruption_that_changes_nothing_changes_no_answer_and_no_routing():
    model = moezoo.create_model("entity_moe/test_vit", pretrained=True)
    data = ImageTensors(torch.rand(5, 1, 16, 16) * 2 - 1, torch.arange(5))
    corruptions = {"none": [lambda pixels: pixels], "black": [torch.zeros_like]}
    found = robustness(model, data, mean=(0.5,), std=(0.5,), corruptions=corruptions)
    none, black = found.corrupted
    assert (none.top1, none.kept, none.mean_rerouted) == (found.clean_top1, 1, 0)
    assert black.mean_rerouted > 0
    with pytest.raises(InputError, match="empty"):
        robustness(model, ImageTensors(torch.zeros(0, 1, 16, 16), torch.zeros(0)), mean=(0,), std=(1,))


def test_a_dense_model_has_answers_and_no_routing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    data = ImageTensors(torch.rand(7, 1, 4, 4), torch.arange(7) % 3)
    found = robustness(model, data, mean=(0.0,), std=(1.0,))
    assert all(each.rerouted == {} and each.mean_rerouted is None for each in found.corrupted)


def test_the_first_expert_of_a_token_is_the_one_of_the_largest_weight_that_was_not_dropped():
    routing = Routing.from_logits(torch.tensor([[1.0, 3, 2], [5, 4, 0], [0, 1, 2]]), top_k=2)
    assert first_expert(routing).tolist() == [1, 0, 2]
    routing.dropped[[0, 4, 5]] = True
    assert first_expert(routing).tolist() == [2, 0, -1]
