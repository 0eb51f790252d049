"""Pictures of single images: the data they carry is right, and they can be written."""

from types import SimpleNamespace

import pytest
import torch
from matplotlib.colors import to_rgb

from moezoo.errors import InputError
from moezoo.moe import Routing, RoutingRecord
from moezoo.viz import (
    attention_figure,
    attention_received,
    captions_figure,
    expert_weights,
    image_text_figure,
    predictions_figure,
    regions_figure,
    retrieval_figure,
    save_figure,
    word_maps,
    words_of,
)
from moezoo.viz.grid import fitted, layer_label
from moezoo.viz.looking import attention_words
from moezoo.viz.style import ALERT


@pytest.fixture
def written(tmp_path):
    """Writes a figure, looks at the file, and gives back the figure's data."""

    def write(figure):
        path = save_figure(figure, tmp_path / "picture.png", dpi=30)
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 1000
        return figure.data

    return write


def framed(ax):
    return ax.spines["left"].get_visible() and to_rgb(ax.spines["left"].get_edgecolor()) == to_rgb(ALERT)


def test_attention_received_is_the_mean_over_heads_and_queries_without_the_prefix(written):
    weights = torch.zeros(1, 2, 5, 5)
    weights[0, 0, :, 1] = 1  # one head looks at the first patch alone
    weights[0, 1, :, 0] = 0.5  # the other at the class token and the last patch
    weights[0, 1, :, 4] = 0.5
    maps = attention_received(weights, (2, 2), 1)
    assert maps.tolist() == [[[0.5, 0.0], [0.0, 0.25]]]
    data = written(attention_figure(torch.rand(1, 3, 8, 8), {"encoder.blocks.0.attn": maps}, titles=["a"]))
    assert data["relative"]["encoder.blocks.0.attn"].tolist() == [[[2.0, 0.0], [0.0, 1.0]]]
    with pytest.raises(InputError, match="grid of 3 x 3"):
        attention_received(weights, (3, 3))
    with pytest.raises(InputError, match="at least one layer"):
        attention_figure(torch.rand(1, 1, 4, 4), {})
    with pytest.raises(InputError, match=r"must be \(2, rows"):
        attention_figure(torch.rand(2, 1, 4, 4), {"a": maps})


def test_regions_show_every_experts_weight_for_every_patch(written):
    logits = torch.tensor([[9.0, 0, -9], [1.0, 1.0, -9], [-9, 0.0, 9], [0.0, 9, -9], [0.0, 9, -9]])
    routing = Routing.from_logits(logits, 2)
    record = RoutingRecord("blocks.0.moe", 0, routing, (2, 2), 1)
    weights = expert_weights(record)
    assert weights.shape == (1, 3, 2, 2)
    assert weights[0, :, 0, 0].tolist() == [0.5, 0.5, 0.0]  # token 1: a tie
    assert torch.allclose(weights.sum(1), torch.ones(1, 2, 2))
    figure = regions_figure(torch.rand(1, 1, 8, 8), record, titles=["a digit"])
    assert torch.equal(torch.from_numpy(written(figure)["weights"]), weights)
    titles = [ax.get_title() for ax in figure.axes]
    shares = weights.sum((0, 2, 3)) / weights.sum()
    assert titles == ["input", *(f"expert {i}  {share:.0%}" for i, share in enumerate(shares.tolist()))]
    routing.dropped[:2] = True  # what is dropped is not used
    assert expert_weights(record).sum() == weights.sum()  # token 0 is the prefix
    with pytest.raises(InputError, match="routed 1 images, but 3"):
        regions_figure(torch.rand(3, 1, 8, 8), record)


def test_the_idlest_of_many_experts_are_left_out(written):
    logits = torch.full((4, 20), -9.0)
    logits[range(4), [3, 3, 7, 19]] = 9.0
    figure = regions_figure(
        torch.rand(1, 1, 4, 4), RoutingRecord("m", 0, Routing.from_logits(logits, 1, False), (2, 2), 0)
    )
    assert {3, 7, 19} < set(written(figure)["experts"])
    assert len(figure.axes) == 13


def test_a_words_map_sums_its_tokens_over_the_image(written):
    weights = torch.zeros(2, 5, 3)  # heads, class token and four patches, tokens
    weights[0, 1, 0] = weights[1, 1, 1] = 1.0
    weights[:, 4, 2] = 1.0
    maps = word_maps(weights, [[0, 1], [2]], (2, 2), 1)
    assert maps.tolist() == [[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]
    figure = image_text_figure(torch.rand(2, 3, 8, 8), [["cat", "mat"], []], [maps, maps[:0]])
    data = written(figure)
    assert data["words"] == [["cat", "mat"], []]
    assert data["maps"][0].tolist() == maps.tolist()
    assert [ax.get_title() for ax in figure.axes if ax.get_visible() and ax.get_title()] == ["cat", "mat"]
    with pytest.raises(InputError, match="as many maps as words"):
        image_text_figure(torch.rand(1, 3, 8, 8), [["cat"]], [maps])


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        ([b"<bos>", b"a", b" grey", b"hound", b",", b" 12", b"<eos>", b"<pad>"], ["a", "greyhound", "12"]),
        (["红".encode(), "色".encode()[:1], "色".encode()[1:], b" ok"], ["红", "色", "ok"]),
        ([b"<bos>", b"<eos>"], []),
    ],
)
def test_words_are_put_together_from_the_tokens_pieces(pieces, words):
    def decode(ids):
        text = b"".join(pieces[i] for i in ids if not pieces[i].startswith(b"<"))
        return text.decode(errors="replace").strip()

    found = words_of(range(len(pieces)), decode)
    assert [word for word, _ in found] == words
    for word, places in found:
        assert b"".join(pieces[i] for i in places).decode().strip() == word


class Reader(torch.nn.Module):
    """A model whose images have a grid of one row, and whose tokens are single letters."""

    grid, prefix_tokens = (1, 2), 0
    tokenizer = SimpleNamespace(decode=lambda rows: ["".join(" xa bc"[i] for i in rows[0]).strip()])

    def token_geometry(self, shape):
        return None, 0


def test_a_captioners_word_looks_where_the_place_before_it_looked_and_a_fusions_word_where_it_stands():
    ids, mask = torch.tensor([[0, 2, 3, 4, 0]]), torch.tensor([[True] * 4 + [False]])  # begin, a, space, b, padding
    looks = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75], [0.0, 0.0]])  # of each token, at patches
    record = SimpleNamespace(weights=looks[None, None], cross=True, call=0, query_grid=None)
    own = SimpleNamespace(weights=torch.rand(1, 1, 5, 5), cross=False, call=0, query_grid=None)
    found = attention_words(Reader(), [own, record], ids, mask, title="t", ahead=1)
    assert found.words == [["a", "b"]]
    assert found.maps[0].tolist() == [[[1.0, 0.0]], [[0.0, 1.0]]]
    asked = SimpleNamespace(weights=looks.T[None, None], cross=True, call=0, query_grid=(1, 2))
    found = attention_words(Reader(), [asked], ids, mask, title="t")
    assert found.maps[0].tolist() == [[[0.5, 0.5]], [[0.25, 0.75]]]
    assert attention_words(Reader(), [own], ids, mask, title="t") is None


def test_predictions_frame_what_is_wrong_and_say_the_true_class(written):
    probabilities = torch.tensor([[0.7, 0.3], [0.9, 0.1], [0.2, 0.8]])
    figure = predictions_figure(torch.rand(3, 3, 8, 8), [0, 1, 1], probabilities, ["cat", "dog"])
    data = written(figure)
    assert data["predicted"] == [0, 0, 1]
    assert data["confidence"] == pytest.approx([0.7, 0.9, 0.8])
    assert data["wrong"] == [False, True, False]
    assert [framed(ax) for ax in figure.axes] == data["wrong"]
    assert [ax.get_title() for ax in figure.axes] == ["cat\n70%", "cat\n90%", "dog\n80%"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "is dog", ""]
    with pytest.raises(InputError, match="as many labels"):
        predictions_figure(torch.rand(3, 3, 8, 8), [0, 1], probabilities, ["cat", "dog"])


def test_captions_are_framed_unless_they_equal_a_reference(written):
    references = [("A  cat", "a feline"), ("a dog",), ("a cow",)]
    figure = captions_figure(torch.rand(3, 1, 8, 8), ["a Feline", "a cat", ""], references)
    assert written(figure)["exact"] == [True, False, False]
    assert [framed(ax) for ax in figure.axes if ax.get_visible()] == [False, True, True]
    assert figure.axes[2].get_title() == "(nothing)"
    with pytest.raises(InputError, match="one or more references"):
        captions_figure(torch.rand(1, 1, 8, 8), ["a"], [()])


def test_retrieval_orders_by_cosine_and_counts_identical_sentences_as_hits(written):
    captions = ["a cat", "a cat", "a dog", "a cow"]
    images = torch.eye(3) * torch.tensor([1.0, 5.0, 2.0])  # lengths do not count
    texts = torch.tensor([[1.0, 0.5, 0.1], [0.5, 1.0, 0.1], [0.1, 1.0, 0.5], [1.0, 0.1, 0.5]])
    figure = retrieval_figure(torch.rand(3, 3, 8, 8), captions, [0, 1, 1, 2], images, texts, queries=4, top=3)
    data = written(figure)
    assert data["text_queries"] == [0, 1, 2, 3]
    assert data["images_found"] == [[0, 1, 2], [1, 0, 2], [1, 2, 0], [0, 2, 1]]
    assert data["image_hits"] == [[True, True, False], [True, True, False], [True, False, False], [False, True, False]]
    assert data["image_queries"] == [0, 1, 2]
    assert data["texts_found"][0] == [0, 3, 2]  # the second "a cat" repeats the first
    assert data["text_hits"][0] == [True, False, False]
    with pytest.raises(InputError, match="features of each"):
        retrieval_figure(torch.rand(3, 3, 8, 8), captions, [0, 1, 1, 2], images[:2], texts)


def test_texts_and_names_are_made_to_fit():
    assert fitted("a large red circle above a square", 12, 2) == "a large red\ncircle abov…"
    assert fitted("红" * 10, 8, 3) == "\n".join(["红" * 4, "红" * 4, "红" * 2])
    assert fitted("cat\n70%", 18, 3) == "cat\n70%"
    assert layer_label("img_encoder.blocks.3.general_experts") == "img_encoder.blocks.3"
    assert layer_label("blocks.2.entity_moe.moe") == "blocks.2"
    assert layer_label("blocks.2.mlp.token_routing.moe") == "blocks.2"
    assert layer_label("other.moe") == "other.moe"
