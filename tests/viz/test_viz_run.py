"""Which pictures a run, an evaluation and the documented folder get, for every kind of model and task."""

import pytest
import torch

import moezoo
from moezoo.data import ImageTensors, Splits, load_dataset
from moezoo.data.text import class_sentences, make_tokenizer
from moezoo.errors import ConfigError
from moezoo.eval import Evaluation, classification_metrics
from moezoo.eval.part import evaluate_part
from moezoo.eval.routing import layer_load
from moezoo.train import EpochMetrics
from moezoo.viz import dataset_routing_figure, documented_pictures, evaluation_pictures, model_figures, save_figures

TINY = {
    "embed_dim": 8,
    "num_heads": 2,
    "mlp_ratio": 1.0,
    "img_encoder_layers": 2,
    "text_embed_dim": 8,
    "vocab_size": 400,
}
NAMES = ("cat", "dog", "owl")


@pytest.fixture(scope="module")
def classes():
    """Three classes, their images of one colour, normalised in an unusual way."""
    labels = torch.arange(9) % 3
    pixels = (labels.float() / 2).view(-1, 1, 1, 1).expand(-1, 1, 8, 8) * 0.8 + 0.1
    part = ImageTensors((pixels - 0.3) / 0.2, labels)
    return Splits("colours", part, part, part, NAMES, (0.3,), (0.2,)), pixels


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    small = {"img_size": 8, "text_encoder_layers": 1, "fusion_layers": 1, "num_classes": 3}
    model = moezoo.create_model("diff_moe/digits", **TINY, **small)
    sentences = [sentence for own in class_sentences(NAMES) for sentence in own]
    model.tokenizer = make_tokenizer(sentences, vocab_size=400, kind="bpe")
    return model


@pytest.fixture(scope="module")
def shapes():
    return load_dataset("shapes", train_images=12, val_images=4, test_images=12)


def told(model, splits):
    sentences = [sentence for i in range(len(splits.train)) for sentence in splits.train.captions(i)]
    model.tokenizer = make_tokenizer(sentences, vocab_size=400, kind="bpe")
    return model


def epochs(model, score_name="accuracy"):
    layers = [name for name, module in model.named_modules() if isinstance(module, moezoo.moe.MoELayer)]
    loads = tuple(layer_load(name, 4, [1, 1, 1, 1], 0) for name in layers)
    return [EpochMetrics(i, 1e-3, 1.0, 0.0, 1.0, 0.5, 0.5, 1.0, loads, score_name) for i in (1, 2)]


def test_a_classifier_that_reads_gets_every_picture_and_is_left_as_it_was(classifier, classes, tmp_path):
    splits, pixels = classes
    classifier.train()
    figures = model_figures(classifier, splits, images=3)
    assert classifier.training
    assert list(figures) == ["predictions", "routing", "expert_regions", "expert_classes", "attention", "image_text"]
    for path in save_figures(figures, tmp_path, dpi=30):
        assert path.stat().st_size > 1000
    shown = figures["predictions"].axes[0].images[0].get_array()
    assert torch.allclose(torch.tensor(shown), pixels[0, 0], atol=1e-6)  # by the data set's own mean and deviation
    data = figures["predictions"].data
    assert data["labels"] == [0, 1, 2]
    with torch.no_grad():
        expected = classifier.eval()(torch.stack([splits.test[i][0] for i in range(3)]))["logits"]
    assert data["predicted"] == expected.argmax(-1).tolist()
    assert data["confidence"] == pytest.approx(expected.softmax(-1).amax(-1).tolist(), rel=1e-4)
    layers = [f"img_encoder.blocks.{i}.general_experts" for i in range(2)]  # the images alone: no fusion
    assert list(figures["routing"].data["experts"]) == layers
    assert figures["routing"].data["experts"][layers[0]].shape == (3, *classifier.patch_embed.grid_size)
    for share in figures["expert_classes"].data["shares"].values():
        assert share.sum(1) == pytest.approx(1)
    for maps in figures["attention"].data["maps"].values():
        assert maps.sum((1, 2)) == pytest.approx(1)
    words = figures["image_text"].data
    assert " ".join(words["words"][0]) == class_sentences(NAMES)[0][0]
    total = sum(words["maps"][0])  # each patch spreads its attention over the words and the tokens around them
    assert ((total > 0) & (total < 1)).all()


def test_a_layer_is_chosen_by_name(classifier, classes):
    splits, _ = classes
    name = "img_encoder.blocks.0"
    figures = model_figures(classifier, splits, images=2, layer=name)
    assert list(figures["routing"].data["experts"]) == [f"{name}.general_experts"]
    assert list(figures["expert_classes"].data["shares"]) == [f"{name}.general_experts"]
    with pytest.raises(ConfigError, match=r"layer='blocks\.9' is no MoE layer"):
        model_figures(classifier, splits, images=2, layer="blocks.9")
    with pytest.raises(ConfigError, match="do not lie on a grid"):
        dataset_routing_figure(classifier, splits, images=2, layer="text_encoder.blocks.0")


def test_a_model_without_experts_or_words_gets_what_is_left(classes):
    splits, _ = classes
    small = {"img_size": 8, "text_encoder_layers": 0, "num_classes": 3, "fusion_layers": 0}
    model = moezoo.create_model("diff_moe/digits.dense", **TINY, **small)
    assert list(model_figures(model, splits, images=2)) == ["predictions", "attention"]
    with pytest.raises(ConfigError, match="no MoE layer"):
        dataset_routing_figure(model, splits, images=2)


def test_retrieval_shows_what_was_found_and_the_cosine_of_words_and_patches(shapes, tmp_path):
    torch.manual_seed(0)
    model = told(moezoo.create_model("diff_moe/shapes", **TINY, text_encoder_layers=1, fusion_layers=1), shapes)
    figures = model_figures(model, shapes, images=2)
    assert list(figures) == ["predictions", "routing", "expert_regions", "attention", "image_text"]
    assert "images_found" in figures["predictions"].data
    image, own = shapes.test[0]
    ids, mask = model.tokenizer.encode([own[0]], model.moezoo_config.max_text_len)
    with torch.no_grad():
        output = model.eval()(image[None], ids, mask)
    cosine = torch.cosine_similarity(output["img_features"][0, :, None], output["text_features"][0, None], dim=-1)
    maps = figures["image_text"].data["maps"][0]
    first = cosine[:, 1].view(model.patch_embed.grid_size).numpy()  # after the beginning, the first word
    assert maps[0] == pytest.approx(first, abs=1e-4)
    report = evaluate_part(model, shapes)
    paths = documented_pictures(model, shapes, report, tmp_path, history=epochs(model, "recall_at_1"), images=2, dpi=30)
    assert {path.stem for path in paths} == {
        "training_curves", "predictions_grid", "expert_allocation", "expert_tokens", "router_decisions",
        "expert_regions", "attention_weights", "image_text",
    }  # fmt: skip
    assert evaluation_pictures(Evaluation(retrieval=report.retrieval), tmp_path, title="x") == []


def test_a_captioner_shows_its_sentences_and_where_it_looked(shapes):
    torch.manual_seed(0)
    model = told(moezoo.create_model("diff_moe/shapes.captioner", **TINY, decoder_layers=1), shapes)
    figures = model_figures(model, shapes, images=2)
    captions = figures["predictions"].data
    report = evaluate_part(model, shapes).captions
    assert captions["references"] == [list(shapes.test.captions(i)) for i in range(2)]
    told_of = {sample.image: sample.caption for sample in report.samples}
    assert captions["captions"][0] == told_of[shapes.test.describe(0)]
    assert "routing" in figures
    for maps in figures["image_text"].data["maps"]:
        for each in maps:  # a token spreads its attention over the patches, a word is one or more tokens
            assert each.sum() == pytest.approx(round(float(each.sum())), abs=1e-3)


def test_the_documented_names_of_a_classifier(classifier, classes, tmp_path):
    splits, _ = classes
    report = Evaluation(
        classification_metrics(torch.eye(3), torch.arange(3), NAMES), routing=tuple(epochs(classifier)[0].routing)
    )
    names = {path.stem for path in documented_pictures(classifier, splits, report, tmp_path, images=2, dpi=30)}
    assert names == {
        "predictions_grid", "confusion_matrix", "expert_allocation", "expert_tokens", "router_decisions",
        "expert_regions", "attention_weights", "image_text",
    }  # fmt: skip
