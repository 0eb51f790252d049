"""What an explanation names is what was planted, its figures are right, and the model is left as it was."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import moezoo
from moezoo.data import load_dataset
from moezoo.errors import ConfigError, InputError, NonFiniteError
from moezoo.eval import ExplainableMoE, explain_decision
from moezoo.eval.explanation.erasing import cell_grid, cell_sums, erase, filling, over_pixels
from moezoo.eval.explanation.region import find_region
from moezoo.moe import MoELayer

HOT = (slice(8, 12), slice(4, 8))
"""Where the planted model looks, of images of 16 x 8: cells (4, 2) to (5, 3) of 8 x 4."""


class Planted(nn.Module):
    """A feature that rests on one place of TIR, seen through expert 2; the rest says next to nothing."""

    modalities = ("RGB", "NIR", "TIR")

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.moe = MoELayer(16, num_experts=3, top_k=3, hidden_dim=8)
        with torch.no_grad():
            self.moe.experts.w_out[:2] *= 0.05
            self.moe.experts.b_out[:2] *= 0.05
        self.expert_labels = ("scale", ["4 x 4 windows", "8 x 8 windows", "16 x 16 windows"])

    def forward(self, images, present=None):
        if present is not None:
            images = images * present[..., None, None, None]
        seen = images[:, 2, 0][:, HOT[0], HOT[1]].flatten(1)
        return torch.cat([self.moe(seen), 0.01 * images.mean((2, 3, 4))], 1)


class Linear(nn.Module):
    """A classifier whose log odds are linear in its image."""

    num_classes = 2

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, images):
        score = (images * self.weight).flatten(1).sum(1)
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture(scope="module")
def planted():
    return Planted()


@pytest.fixture(scope="module")
def sightings():
    torch.manual_seed(1)
    return torch.randn(2, 3, 1, 16, 8)


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_it_names_the_planted_spectrum_place_scale_and_expert(planted, sightings, method):
    planted.train()
    found = explain_decision(planted, sightings, method=method)
    assert planted.training
    assert not planted.moe.router._forward_hooks
    for case in found:
        assert case.modality.name == case.region.modality == "TIR"
        left, top, right, bottom = case.region.box
        assert 0.375 <= left < right <= 1.0
        assert 0.375 <= top < bottom <= 0.875
        assert case.scale is case.expert
        assert case.expert.expert == 2
        if method == "occlusion":  # random gradients of a random network need not be
            assert case.faithfulness.faithful
            assert case.faithfulness.deletion < 0.75 * case.faithfulness.random_deletion
            assert "The map is better than chance" in case.text()
        assert sum(part.weight for part in case.experts) == pytest.approx(1)
        text = case.text()
        assert "TIR counts most" in text
        assert "16 x 16 windows" in text
    assert "Image 1:" in found.text()
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert np.shape(told["cases"][0]["saliency"]) == (3, 8, 4)
    assert told["cases"][0]["text"] == found[0].text()


def test_of_generated_sightings_it_finds_the_warm_place_in_thermal_infrared():
    class Thermal(nn.Module):
        """The warmth at four heights, of thermal infrared alone: what the planted coarse cue is told by."""

        modalities = ("RGB", "NIR", "TIR")

        def forward(self, images):
            bands = torch.stack([images[:, 2, 0, top - 8 : top + 8, 24:40].mean((1, 2)) for top in (20, 46, 70, 100)])
            return (bands - bands.mean(0)).relu().T + 0.01

    people = {"train_identities": 1, "test_identities": 3, "val_identities": 0, "cameras": 2}
    splits = load_dataset("trispectral", cues=("tir_coarse",), input_size=(3, 128, 64), **people)
    query = [splits.query[i][0] for i in range(4)]
    match = [splits.gallery[2 * (i + 1 if i % 2 == 0 else i - 1)][0] for i in range(4)]  # by the other camera
    found = explain_decision(Thermal(), torch.stack(query), match=torch.stack(match), cells=(8, 4))
    for index, case in enumerate(found):
        assert case.modality.name == case.region.modality == "TIR"
        assert [part.effect for part in case.modalities[:2]] == [0, 0]
        warm = (20, 46, 70, 100)[splits.query.levels(index)["tir_coarse"]] / 128
        assert case.region.box[1] - 0.1 <= warm <= case.region.box[3] + 0.1
        assert case.faithfulness.faithful
        assert case.expert is None
        assert "similarity to its match" in case.text()


def test_of_a_linear_model_both_methods_give_each_cells_own_part():
    torch.manual_seed(2)
    weight, images = torch.randn(1, 6, 4).double(), torch.randn(2, 1, 6, 4).double()
    model = Linear(weight)
    parts = (weight * (images - images.mean((2, 3), keepdim=True))).squeeze(1)
    cells = torch.stack(
        [parts[:, 2 * r : 2 * r + 2, 2 * c : 2 * c + 2].sum((1, 2)) for r in range(3) for c in range(2)]
    )
    cells = cells.T.view(2, 3, 2).detach().numpy()
    scores = model(images)[:, 0].detach()
    sign = scores.sign().numpy()  # of the predicted class, the log odds fall by what the score falls towards 0
    gradient = explain_decision(model, images, method="gradient", cells=(3, 2))
    occluded = explain_decision(model, images, cells=(3, 2))
    for index in range(2):
        assert np.allclose(np.array(gradient[index].saliency)[0], sign[index] * cells[index], atol=1e-5)
        own = sign[index] * cells[index]
        window = np.array([own[r : r + 2].sum() for r in range(2)])  # 2 x 2 cells are a window's
        assert np.allclose(
            np.array(occluded[index].saliency)[0],
            np.repeat([window[0], window.mean(), window[1]], 2).reshape(3, 2),
            atol=1e-5,
        )
        assert gradient[index].score == pytest.approx(abs(float(scores[index])), rel=1e-5)
        assert sum(map(sum, gradient[index].saliency[0])) == pytest.approx(
            gradient[index].modalities[0].effect, abs=1e-5
        )


def test_deletion_and_insertion_are_areas_under_the_curves_in_order_of_the_map():
    weight = torch.tensor([[[3.0, -1.0], [0.5, 1.5]]]).double()
    images = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]]).double()
    found = explain_decision(Linear(weight), images, method="gradient", cells=(2, 2), steps=4, random_orders=3)
    mean, flat = images.mean(), weight.flatten().numpy()
    own = flat * (images.flatten().numpy() - float(mean))
    order = np.argsort(-own, kind="stable")
    whole, nothing = float((weight * images).sum()), float(weight.sum() * mean)
    odds = lambda x: 1 / (1 + np.exp(-np.asarray(x)))  # noqa: E731
    deletion = odds([whole - own[order[:k]].sum() for k in range(5)])
    insertion = odds([nothing + own[order[:k]].sum() for k in range(5)])
    told = found[0].faithfulness
    assert np.allclose(told.deletion_curve, deletion, atol=1e-6)
    assert np.allclose(told.insertion_curve, insertion, atol=1e-6)
    assert told.shares == (0, 0.25, 0.5, 0.75, 1)
    generator, areas = torch.Generator().manual_seed(0), []
    for _ in range(3):
        drawn = torch.randperm(4, generator=generator).numpy()
        kept = np.array([own[drawn[:k]].sum() for k in range(5)])
        areas.append((np.trapezoid(odds(whole - kept), dx=0.25), np.trapezoid(odds(nothing + kept), dx=0.25)))
    assert (told.random_deletion, told.random_insertion) == pytest.approx(np.mean(areas, 0).tolist(), abs=1e-6)
    assert told.beaten == np.mean([d > told.deletion + 1e-6 and i < told.insertion - 1e-6 for d, i in areas])
    assert told.deletion == pytest.approx(np.trapezoid(deletion, dx=0.25), abs=1e-6)
    assert told.insertion == pytest.approx(np.trapezoid(insertion, dx=0.25), abs=1e-6)
    assert told.random_deletion >= told.deletion
    assert told.random_insertion <= told.insertion
    again = explain_decision(Linear(weight), images, method="gradient", cells=(2, 2), steps=4, random_orders=3)
    assert again == found  # random orders come from the seed


def test_a_missing_spectrum_takes_no_part(planted, sightings):
    present = torch.tensor([[True, False, True], [True, True, True]])
    case = explain_decision(planted, sightings, present=present)[0]
    nir = case.modalities[1]
    assert (nir.present, nir.effect) == (False, 0)
    assert not np.any(case.saliency[1])
    assert np.any(case.saliency[2])
    assert "Not there: NIR." in case.text()
    assert case.faithfulness.deletion_curve[0] == pytest.approx(1, abs=1e-6)
    worse = [replace(part, effect=-1.0) if part.present else part for part in case.modalities]
    assert replace(case, modalities=tuple(worse)).modality.present  # whatever is not there cannot have decided


def test_the_weight_of_an_expert_is_the_same_whoever_else_is_explained():
    torch.manual_seed(0)
    model = moezoo.create_model("multiscale_moe/synthetic", num_classes=0).eval()
    images, quick = torch.randn(3, 3, *model.input_size), {"cells": (1, 1), "steps": 1, "random_orders": 1}
    present = torch.tensor([[True, False, True], [True, True, True], [True, False, True]])
    together = explain_decision(model, images, present=present, **quick)
    for row in range(3):
        one = slice(row, row + 1)
        (alone,) = explain_decision(model, images[one], present=present[one], **quick)
        assert [part.weight for part in together[row].experts] == pytest.approx([part.weight for part in alone.experts])
        assert together[row].score == pytest.approx(alone.score)


def test_no_forward_is_of_more_images_than_asked_for(planted, sightings):
    seen, images = [], sightings.repeat(3, 1, 1, 1, 1)
    handle = planted.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    explain_decision(planted, images, match=images, against=images, cells=(2, 1), steps=1, batch_size=2)
    handle.remove()
    assert max(seen) == 2


@pytest.mark.parametrize("name", ["entity_moe/digits", "diff_moe/digits", "attention_routing/digits"])
def test_every_family_is_explained_and_an_expert_that_did_nothing_has_no_effect(name):
    torch.manual_seed(0)
    model = moezoo.create_model(name).eval()
    images = torch.randn(1, *model.pretrained_cfg["input_size"])
    with torch.no_grad():
        before = model(images)
    case = ExplainableMoE(model, steps=2, random_orders=1).explain_decision(images, cells=(2, 2))[0]
    assert case.experts
    assert all(part.effect == 0 for part in case.experts if part.weight == 0)
    assert "probability" in case.decision
    with torch.no_grad():
        after = model(images)
    same = before["logits"] == after["logits"] if not isinstance(before, torch.Tensor) else before == after
    assert bool(same.all())


def test_the_effect_of_an_expert_is_what_the_score_loses_without_it():
    torch.manual_seed(0)

    class Sum(nn.Module):
        num_classes = 2

        def __init__(self):
            super().__init__()
            self.moe = MoELayer(4, num_experts=3, top_k=2, hidden_dim=4)

        def forward(self, images):
            return self.moe(images.flatten(1))[:, :2]

    model, images = Sum().eval(), torch.randn(3, 1, 2, 2)
    found = explain_decision(model, images, steps=1, random_orders=1, batch_size=2)
    with torch.no_grad(), moezoo.record_routing(model) as records:
        whole = model(images)
    routing, x = records[0].routing, images.flatten(1)
    for row, case in enumerate(found):
        chosen = int(whole[row].argmax())
        for part in case.experts:
            used = (routing.token_index == row) & (routing.expert_index == part.expert)
            weight = float(routing.weight[used].sum())
            assert part.weight == pytest.approx(weight, abs=1e-6)
            with torch.no_grad():
                alone = MoELayer(4, num_experts=3, top_k=1, hidden_dim=4)
                alone.experts.load_state_dict(model.moe.experts.state_dict())
                handle = alone.router.register_forward_pre_hook(lambda *_: None)
                one = moezoo.moe.Routing.from_choice(
                    torch.tensor([[part.expert]]), torch.tensor([[weight]]), torch.zeros(1, 3)
                )
                alone.router.forward = lambda *_args, one=one, **_kwargs: one
                left = whole[row] - alone.eval()(x[row : row + 1])[0, :2]
                handle.remove()
            margin = lambda logits, c=chosen: float(logits[c] - logits[1 - c])  # noqa: E731
            assert part.effect == pytest.approx(margin(whole[row]) - margin(left), abs=1e-5)


def test_held_against_others_what_all_have_in_common_counts_nothing():
    class Offset(nn.Module):
        """The mean of the upper half tells images apart; that of the lower half is the same and large."""

        modalities = ("RGB",)

        def forward(self, images):
            upper, lower = images[:, 0, :4].mean((1, 2)), images[:, 0, 4:].mean((1, 2))
            return torch.stack([upper, 10 * lower], 1)

    images = torch.ones(2, 1, 8, 4)
    images[:, :, :4, :2] = torch.tensor([3.0, -3.0]).view(2, 1, 1, 1)
    query, other = images[:1], images[1:]
    model = Offset()
    with torch.no_grad():
        own, others = (nn.functional.normalize(model(each), dim=-1) for each in (query, other))
    alone = explain_decision(model, query, match=query, cells=(2, 1))[0]
    told = explain_decision(model, query, match=query, against=other.expand(5, -1, -1, -1), cells=(2, 1))[0]
    assert alone.score == pytest.approx(1)
    assert told.score == pytest.approx(1 - float((own * others).sum()), abs=1e-6)
    assert told.decision.startswith("more like its match than like 5 others")
    single = explain_decision(model, query, match=query, against=other, cells=(2, 1))[0]
    assert single.decision.startswith("more like its match than like another, by")
    assert told.modalities[0].effect > 5 * alone.modalities[0].effect
    with pytest.raises(InputError, match="against must be"):
        explain_decision(model, query, against=torch.zeros(1, 1, 4, 4))


def test_the_text_says_how_far_the_map_can_be_trusted_and_what_nothing_speaks_for(planted, sightings):
    (case,) = explain_decision(planted, sightings[:1], cells=(2, 1), steps=1, random_orders=1)
    trust = replace(case.faithfulness, deletion=0.2, random_deletion=0.3, insertion=0.6, random_insertion=0.5)
    for change, says in (
        ({}, "is better than chance, and than"),
        ({"deletion": 0.4}, "by one of two measures only"),
        ({"insertion": 0.4}, "by one of two measures only"),
        ({"deletion": 0.4, "insertion": 0.4}, "no better than chance, so do not rely on it"),
    ):
        assert says in replace(case, faithfulness=replace(trust, **change)).text()
    against = replace(
        case,
        region=None,
        modalities=tuple(replace(part, effect=-1.0) for part in case.modalities),
        experts=tuple(replace(part, effect=-1.0) for part in case.experts),
    ).text()
    for says in ("No spectrum is missed", "No part of the image speaks", "No scale is missed"):
        assert says in against


def test_cells_tile_an_image_of_any_size():
    assert cell_grid((256, 128)) == (8, 4)
    assert cell_grid((8, 8)) == (8, 8)
    assert cell_grid((3, 500)) == (1, 8)
    cells = torch.arange(6).view(2, 3)
    pixels = over_pixels(cells, (5, 7))
    assert pixels.shape == (5, 7)
    assert pixels.unique().tolist() == list(range(6))
    assert cell_sums(torch.ones(5, 7), (2, 3)).sum() == 35
    images = torch.rand(1, 2, 3, 5, 7)
    erased = torch.zeros(1, 2, 2, 3, dtype=torch.bool)
    erased[0, 1, 0, 2] = True
    filled = filling(images, "mean")
    changed = erase(images, erased, filled) != images
    assert not changed[0, 0].any()
    assert bool(changed[0, 1].any(0)[pixels == 2].all())
    assert not changed[0, 1].any(0)[pixels != 2].any()
    blurred = filling(images, "blur")
    assert blurred.shape == images.shape
    assert blurred.var() < images.var()


def test_the_region_is_connected_and_named_by_its_place():
    saliency = np.zeros((2, 6, 6))
    saliency[1, 4:6, 0] = 1.0, 0.6
    saliency[1, 0, 5] = 0.9  # strong, but elsewhere
    region = find_region(saliency, ("RGB", "NIR"))
    assert region.modality == "NIR"
    assert region.place == "lower left"
    assert region.box == (0, 4 / 6, 1 / 6, 1)
    assert region.share == pytest.approx(1.6 / 2.5)
    assert find_region(np.full((1, 2, 2), -1.0), ("image",)) is None
    middle = np.zeros((1, 3, 3))
    middle[0, 1, 1] = 1
    assert find_region(middle, ("image",)).place == "middle"


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"images": torch.zeros(3, 16, 8)}, InputError, "images must be"),
        ({"images": torch.zeros(1, 3, 1, 16, 8, dtype=torch.uint8)}, InputError, "floating point"),
        ({"images": torch.full((1, 3, 1, 16, 8), torch.nan)}, NonFiniteError, "images must be finite"),
        ({"match": torch.zeros(1, 3, 1, 16, 8)}, InputError, "match must be like images"),
        ({"present": torch.ones(2, 2, dtype=torch.bool)}, InputError, "present must be"),
        ({"present": torch.zeros(2, 3, dtype=torch.bool)}, InputError, "without any spectrum"),
        ({"method": "occlusions"}, ConfigError, "occlusion"),
        ({"fill": "noise"}, ConfigError, "fill='noise'"),
        ({"cells": (17, 1)}, ConfigError, "cells"),
        ({"cells": 3}, ConfigError, "rows, columns"),
        ({"steps": 0}, ConfigError, "steps"),
        ({"target": 1}, ConfigError, "target=1 .* features are compared"),
        ({"label_names": ["a"]}, ConfigError, "label_names=.* features are compared"),
        ({"match_present": torch.ones(2, 3, dtype=torch.bool)}, ConfigError, "match_present is not allowed without"),
    ],
)
def test_what_cannot_be_explained_is_an_error(planted, sightings, change, error, match):
    images = change.pop("images", sightings)
    with pytest.raises(error, match=match):
        explain_decision(planted, images, **change)


def test_an_answer_that_is_no_decision_is_an_error():
    images, model = torch.randn(1, 1, 4, 4), Linear(torch.ones(1, 4, 4))
    for target in (2, -1, 0.5, [1.0], [0, 1], "0"):
        with pytest.raises(ConfigError, match=r"target=.*class from 0 to 1"):
            explain_decision(model, images, target=target)
    for target in (np.int64(1), torch.tensor(1), [1], torch.tensor([1])):
        told = explain_decision(model, images, target=target, label_names=np.array(["a", "b"]), cells=(1, 1))
        assert told[0].decision.startswith("b (class 1)")
    with pytest.raises(ConfigError, match="label_names: 3 names are not allowed: the model has 2 classes"):
        explain_decision(model, images, label_names=["a", "b", "c"])
    with pytest.raises(ConfigError, match="present is not allowed: Linear takes images alone"):
        explain_decision(model, images, present=torch.ones(1, 1, dtype=torch.bool))
    with pytest.raises(NonFiniteError, match="not finite"):
        explain_decision(Linear(torch.full((1, 4, 4), torch.nan)), images)

    class Rounded(Linear):
        def forward(self, images):
            return super().forward(images).detach()

    with pytest.raises(InputError, match="no gradient"):
        explain_decision(Rounded(torch.ones(1, 4, 4)), images, method="gradient")


@pytest.mark.parametrize("variant", ["hierarchical", "cross_modal"])
def test_gates_over_modalities_and_scales_are_told_with_the_effects(variant):
    torch.manual_seed(0)
    model = moezoo.create_model(f"multiscale_moe/synthetic.{variant}", num_classes=0).eval()
    images, present = torch.randn(1, 3, *model.input_size), torch.tensor([[True, False, True]])
    found = explain_decision(model, images, present=present, cells=(2, 1), steps=1, random_orders=1)
    (case,) = found
    assert found.scales == ("1 x 1", "4 x 4", "16 x 8")
    with torch.no_grad():
        output = model(images, present=present, return_weights=True)
    for m, part in enumerate(case.modalities):
        assert part.weight == pytest.approx(float(output.modality_weights[0, m]))
        assert part.scale_weights == pytest.approx(output.scale_weights[0, m].tolist())
    assert case.modalities[1].weight == 0
    labels = {part.label for part in case.experts}
    assert labels >= ({"TIR, 4 x 4 windows"} if variant == "hierarchical" else {"TIR", "4 x 4 windows"})
    assert all(part.effect == 0 for part in case.experts if part.label.startswith("NIR"))
    assert "of the gate" in case.text()
