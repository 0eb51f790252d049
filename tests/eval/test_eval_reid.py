"""Re-identification models on data sets: features, reports, missing modalities, and how gates use their experts."""

import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from dataset_folders import market1501, msvr310, photo, rgbnt100, rgbnt201, write
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

from moezoo.data import ReidPart, load_dataset
from moezoo.data.generated.trispectral_figures import HOT_SPOTS
from moezoo.data.reid.splits import ReidImages, Sighting
from moezoo.errors import ConfigError, InputError, UnreadableImage
from moezoo.eval import (
    Evaluation,
    UsageCounter,
    evaluate_reid,
    extract_features,
    missing_modality_matrix,
    moe_usage,
    reid_metrics,
    report_reid,
)
from moezoo.eval.tables import routing_table
from moezoo.eval.tables_reid import missing_table, reid_table, usage_table
from moezoo.moe import MoELayer
from moezoo.moe.record import record_routing

FEW = {"train_identities": 4, "test_identities": 12, "val_identities": 3, "cameras": 2, "images_per_camera": 3}


class Glance(nn.Module):
    """Features of the coarse cues of three spectra: how bright some places are. A gate weighs them."""

    modalities = ("RGB", "NIR", "TIR")

    def __init__(self):
        super().__init__()
        self.moe = MoELayer(3, num_experts=3, top_k=2, hidden_dim=4)
        self.calls = []

    def forward(self, images, present=None):
        self.calls.append(None if present is None else present.clone())
        self.moe(images.mean((2, 3, 4)))
        body = images[:, :2, :, 45:66, 24:40].mean((-2, -1)).flatten(1)
        spots = torch.stack([images[:, 2, 0, y - 3 : y + 4, 29:36].mean((-2, -1)) for y in HOT_SPOTS], 1)
        return torch.cat([body, 2 * spots], 1)


@pytest.fixture(scope="module")
def splits():
    return load_dataset("trispectral", **FEW, input_size=(3, 128, 64))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Glance().train()


@pytest.fixture(scope="module")
def evaluation(model, splits):
    return evaluate_reid(model, splits, rerank=True, batch_size=32)


def test_the_report_is_of_the_whole_part_and_the_model_is_left_as_it_was(model, splits, evaluation):
    report = evaluation.reid
    assert model.training
    assert model.moe.training
    assert (report.num_queries, report.num_gallery, report.protocol) == (24, 48, "market1501")
    found = extract_features(model, splits.test, batch_size=7)
    assert found.features.shape == (72, 10)
    assert found.features.dtype == torch.float32
    query, gallery = found.side(range(24)), found.side(range(24, 72))
    assert np.array_equal(found.identities, splits.test.images.identities)
    again = reid_metrics(query, gallery)
    assert report.mAP == pytest.approx(again["mAP"])
    assert report.mAP > 0.35  # the cues tell identities apart, by other cameras
    assert [report.r1, report.r5, report.r10] == pytest.approx([again["cmc"][k - 1] for k in (1, 5, 10)])
    assert report.cmc == pytest.approx(again["cmc"])
    assert report.mINP == pytest.approx(again["mINP"])
    assert report.reranked.mAP == pytest.approx(reid_metrics(query, gallery, rerank=True)["mAP"])
    assert [load.layer for load in evaluation.routing] == ["moe"]
    assert evaluate_reid(model, splits, "val").reid.num_queries == 6


def test_a_report_is_plain_data(evaluation):
    data = json.loads(json.dumps(evaluation.to_dict()))
    assert data["reid"]["mAP"] == evaluation.reid.mAP
    assert data["reid"]["usage"][0]["layer"] == "moe"
    assert "classification" not in data
    assert "reid" not in Evaluation().to_dict()


def test_what_is_missing_is_not_seen(model, splits, evaluation):
    model.calls.clear()
    matrix = missing_modality_matrix(model, splits, batch_size=72)
    assert [row.missing for row in matrix.rows] == [
        (),
        ("RGB",),
        ("NIR",),
        ("TIR",),
        ("RGB", "NIR"),
        ("RGB", "TIR"),
        ("NIR", "TIR"),
    ]
    assert matrix.full.mAP == pytest.approx(evaluation.reid.mAP)
    assert model.calls[0] is None
    assert model.calls[4].tolist() == [[False, False, True]] * 72
    without = evaluate_reid(model, splits, missing=["RGB", "NIR"], batch_size=72).reid
    assert replace(matrix.row("NIR", "RGB"), usage=()) == replace(without, usage=())
    assert without.mAP < evaluation.reid.mAP  # one of the three cues is left
    blind = Glance.forward
    try:
        Glance.forward = lambda self, images, present=None: blind(self, images)  # looks at all it is given
        assert evaluate_reid(model, splits, missing=["RGB", "NIR"]).reid.mAP == without.mAP
    finally:
        Glance.forward = blind
    for bad, says in (("NIRR", "Did you mean: NIR"), (["RGB", "NIR", "TIR"], "no modality is left")):
        with pytest.raises(ConfigError, match=says):
            evaluate_reid(model, splits, missing=bad)
    with pytest.raises(ConfigError, match="part='train'"):
        evaluate_reid(model, splits, "train")
    with pytest.raises(ConfigError, match="no validation part: val_identities=N"):
        evaluate_reid(model, load_dataset("trispectral", **{**FEW, "val_identities": 0}), "val")


def test_an_image_that_is_query_and_gallery_is_read_once():
    sightings = [Sighting(i, i // 2, i % 2) for i in range(6)]
    seen = []

    def read(item):
        seen.append(item)
        return item

    def images():
        return ReidImages(sightings, lambda item: torch.full((1, 1, 2, 2), 1.0 + item // 2), read=read)

    part = ReidPart.of(images(), images())
    assert (len(part), part.num_queries, part.num_gallery) == (6, 6, 6)
    alone = nn.Flatten()  # a model of one modality is given plain (B, C, H, W) images
    found = extract_features(alone, part, batch_size=4)
    assert seen == list(range(6))
    report = report_reid(found.features, part)
    assert report.num_valid_queries == 6
    wrong = nn.Identity()
    with pytest.raises(InputError, match="Identity must answer 4 sightings with"):
        extract_features(wrong, part, batch_size=4)
    with pytest.raises(InputError, match="6 images need as many features"):
        report_reid(found.features[:5], part)
    with pytest.raises(InputError, match="no re-ID data set"):
        extract_features(alone, [(torch.zeros(3, 2, 2), 1)])


class Pixels(nn.Module):
    """All pixels as features."""

    def forward(self, images, present=None):
        return images.flatten(1)


def test_every_folder_is_evaluated_by_its_own_rule(tmp_path):
    size = {"input_size": (3, 16, 16)}
    folders = {"market1501": market1501, "rgbnt201": rgbnt201, "rgbnt100": rgbnt100, "msvr310": msvr310}
    found = {}
    for name, make in folders.items():
        splits = load_dataset(name, root=make(tmp_path / name), **size)
        report = evaluate_reid(Pixels(), splits).reid
        assert report.num_valid_queries == report.num_queries == len(splits.query)
        assert report.num_gallery == len(splits.gallery)
        assert report.protocol == ("msvr310" if name == "msvr310" else "market1501")
        assert 0 < report.mAP <= 1
        found[name] = splits
    claimed = evaluate_reid(Pixels(), found["rgbnt201"], protocol="none").reid  # query and gallery are one folder
    assert claimed.r1 == 1.0
    root = tmp_path / "market1501" / "Market-1501-v15.09.15"
    write(root / "query" / "0900_c1s1_000001_00.jpg", photo(1, (16, 32)))  # nobody of that name in the gallery
    report = evaluate_reid(Pixels(), load_dataset("market1501", root=root, **size)).reid
    assert (report.num_queries, report.num_valid_queries) == (3, 2)
    (root / "query" / "0900_c1s1_000001_00.jpg").write_bytes(b"no picture")
    with pytest.raises(UnreadableImage, match=r"0900_c1s1_000001_00\.jpg: is not an image"):
        evaluate_reid(Pixels(), load_dataset("market1501", root=root, **size))


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 99), st.floats(0, 0.9))
def test_usage_is_that_of_the_weights(tokens, experts, seed, threshold):
    weights = np.random.RandomState(seed).dirichlet(np.ones(experts), tokens).astype(np.float32)
    found = moe_usage(torch.from_numpy(weights), threshold)
    exact = weights.astype(np.float64)
    assert found.mean == pytest.approx(exact.mean(0))
    assert found.balance == pytest.approx(exact.mean(0).var(), abs=1e-12)
    assert found.activation_rate == pytest.approx((weights > np.float32(threshold)).mean())
    assert found.stability == pytest.approx(exact.var(), abs=1e-12)
    assert found.variation == pytest.approx(exact.var(0).mean(), abs=1e-12)


def test_usage_of_weights_by_hand():
    even, one = torch.full((4, 4), 0.25), torch.eye(4)
    assert moe_usage(even).balance == moe_usage(even).stability == 0
    assert moe_usage(even).activation_rate == 1
    assert moe_usage(even, 0.25).activation_rate == 0
    assert (moe_usage(one).balance, moe_usage(one).stability) == (0, pytest.approx(3 / 16))
    assert moe_usage(one).variation == pytest.approx(3 / 16)
    same = one[:1].expand(4, 4)  # one expert for everything
    assert (moe_usage(same).balance, moe_usage(same).variation) == (pytest.approx(3 / 16), 0)
    assert moe_usage(torch.ones(3, 1)).balance == 0
    for bad in (torch.zeros(0, 3), torch.ones(2, 3, dtype=torch.long), torch.tensor([[float("nan"), 1]])):
        with pytest.raises(InputError, match="weights"):
            moe_usage(bad)
    with pytest.raises(ConfigError, match="threshold"):
        moe_usage(even, 1.5)


def test_usage_of_batches_is_that_of_all_tokens(model):
    torch.manual_seed(3)
    tokens, counter, seen = torch.randn(9, 3), UsageCounter(), []
    for batch in tokens.split(4):
        with record_routing(model) as records:
            model.moe(batch)
        counter.add(records)
        seen.append(records[0].routing.weight_by_expert())
    (found,) = counter.report()
    whole = moe_usage(torch.cat(seen))
    assert (found.layer, found.tokens) == ("moe", 9)
    for name in ("mean", "balance", "activation_rate", "stability", "variation"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name))
    assert found.activation_rate <= 2 / 3  # the third expert is not computed


def test_tables_show_the_figures(model, splits, evaluation):
    matrix = missing_modality_matrix(model, splits, "val")
    console = Console(file=io.StringIO(), width=80)
    report = evaluation.reid
    tables = reid_table(report), missing_table(matrix), usage_table(report.usage), routing_table(evaluation.routing)
    console.print(*tables)
    text = console.file.getvalue()
    for shown in (f"{report.mAP:.2%}", f"{report.reranked.r1:.2%}", "24 queries", "NIR TIR", "balance"):
        assert shown in text
    assert "…" not in text
    nothing = report_reid(torch.zeros(2, 1), one_camera())
    assert math.isnan(nothing.mAP)
    console.print(reid_table(nothing))
    assert "2 more have no match and count in nothing" in console.file.getvalue()


def one_camera():
    images = ReidImages([Sighting(i, 1, 1) for i in range(2)], lambda _: torch.zeros(1, 1, 2, 2), read=lambda i: i)
    return ReidPart.of(images, images)
