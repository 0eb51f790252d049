"""Tokenizers: what ids a sentence gets, that nothing is lost unsaid, and CLIP's files read by CLIP's rules."""

import copy
import json
import logging
import os
import pickle
import random
import subprocess
import sys

import pytest
import torch
from text_files import MERGES, clip_files, clip_vocabulary

from moezoo.data.text import CLIP_SIZE, Tokenizer, clip_tokenizer, make_tokenizer, train_bpe
from moezoo.errors import ConfigError, DataError, InputError

CAPTIONS = [
    "A black dog runs .",
    "Two dogs play in the snow .",
    "a child in a pink dress",
    "一只黑狗在跑",
    "Café « olé »",
]


@pytest.fixture(scope="module")
def own():
    return train_bpe(CAPTIONS, vocab_size=1000)


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch, tmp_path_factory, request):
    """Whatever this machine's cache holds, but for the test of the true files."""
    if "true_files" not in request.node.name:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))


def test_every_sentence_comes_back_with_its_beginning_end_and_padding(own):
    ids, mask = own.encode(CAPTIONS, 32)
    assert ids.dtype == torch.int64
    assert mask.dtype == torch.bool
    assert ids.shape == mask.shape == (5, max(own.count(caption) for caption in CAPTIONS))
    assert (own.pad_id, own.bos_id, own.eos_id, own.unk_id) == (0, 1, 2, 3)
    for row, real, caption in zip(ids, mask, CAPTIONS, strict=True):
        length = own.count(caption)
        assert real.tolist() == [True] * length + [False] * (len(real) - length)
        assert row[0] == 1
        assert row[length - 1] == 2
        assert (row[length:] == 0).all()
        assert row.min() >= 0
        assert row.max() < own.vocab_size
    assert own.decode(ids) == [own.normalize(caption) for caption in CAPTIONS]
    assert own.normalize("  A\tblack\n dog ") == "a black dog"
    assert (
        own.encode_ids(["dog"], 8)[0][1] == own.encode_ids(["a dog"], 8)[0][2]
    )  # one word, one id, wherever it stands
    fixed, mask = own.encode(["a dog"], 12, pad_to_max_len=True)
    assert fixed.shape == mask.shape == (1, 12)
    assert mask.sum() == 4
    assert own.decode([[1, *own.encode_ids(["a dog"], 8)[0][1:3], 2, 7, 9]]) == ["a dog"]  # nothing after the end
    assert own.decode([[1, 2], [0, 0]]) == ["", ""]


@pytest.mark.parametrize("text", ["zebra 42 🦓", "Ελλάδα кот שלום", "<eos> <pad>", "a\u0301 = á", "x</w>y"])
def test_any_text_can_be_written_and_none_passes_for_a_special_token(own, text):
    row = own.encode_ids([text], 99)[0]
    assert own.decode([row]) == [own.normalize(text)]
    assert not {0, 1, 2, 3} & set(row[1:-1])


def test_without_room_for_all_bytes_others_than_the_captions_become_unknown():
    captions = ["a dog", "the dog"]
    small = train_bpe(captions, vocab_size=14)
    assert small.vocab_size <= 14
    assert small.decode([small.encode_ids(["the dog"], 32)[0]]) == ["the dog"]
    assert small.unk_id in small.encode_ids(["a dox"], 32)[0]
    with pytest.raises(ConfigError, match=r"vocab_size=11 .*8 different characters.*at least 12"):
        train_bpe(captions, vocab_size=11)
    for nothing in ([], ["", "  "]):
        with pytest.raises(InputError, match="captions"):
            train_bpe(nothing, vocab_size=500)


def test_training_depends_on_the_captions_alone(own):
    """Not on their order, their number, the process or its hash seed."""
    mixed = CAPTIONS * 3
    random.Random(0).shuffle(mixed)
    assert train_bpe(mixed, vocab_size=1000) == own
    assert train_bpe([*CAPTIONS, "another"], vocab_size=1000) != own
    script = (
        "import hashlib; from moezoo.data.text import train_bpe\n"
        f"print(hashlib.sha256(train_bpe({CAPTIONS!r}, vocab_size=1000).to_json().encode()).hexdigest())"
    )
    other = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # by default this process has a random one
    found = subprocess.run(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": other}, capture_output=True, text=True
    ).stdout
    import hashlib

    assert found == hashlib.sha256(own.to_json().encode()).hexdigest() + "\n"


def test_words_of_many_captions_become_tokens_only_if_they_come_twice():
    many = [f"a dog number {i}" for i in range(1000)] + ["an extraordinary zebra"]
    tokenizer = train_bpe(many, vocab_size=20000)
    assert tokenizer.count("dog") == 3
    assert tokenizer.count("extraordinary") > 4
    few = train_bpe(many[-3:], vocab_size=20000)
    assert few.count("extraordinary") == 3
    assert train_bpe(many, vocab_size=300).vocab_size == 300


def test_a_long_sentence_keeps_its_end_and_the_loss_is_told_once(own, caplog):
    text = " ".join(["dog"] * 20)
    with caplog.at_level(logging.WARNING, logger="moezoo"):
        fresh = Tokenizer.from_json(own.to_json())
        row = fresh.encode_ids([text, text], 8)[0]
        fresh.encode([text], 9)
    assert len(row) == 8
    assert row[-1] == fresh.eos_id
    assert fresh.decode([row]) == ["dog dog dog dog dog dog"]
    assert [record.message.count("14 tokens of 'dog dog") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([], "one or more sentences"),
        ("a dog", "must be a sequence"),
        (["a dog", ""], r"texts\[1\] must be a sentence with something in it"),
        (["  \n"], r"texts\[0\]"),
        ([None], r"texts\[0\].*got None"),
        (None, "must be a sequence .* got None"),
        (["a dog", "half a \ud83d"], r"texts\[1\].*half of a surrogate pair"),
    ],
)
def test_empty_text_is_refused_by_its_place(own, texts, says):
    with pytest.raises(InputError, match=says):
        own.encode(texts, 16)
    with pytest.raises(ConfigError, match="max_len=2"):
        own.encode(["a dog"], 2)


def test_ids_of_no_token_say_nothing_and_rows_are_asked_for(own):
    """A model's vocabulary may have room for more tokens than there are; -100 is what others pad with."""
    (row,) = own.encode_ids(["a dog"], 9)
    assert own.decode([[row[0], own.vocab_size, *row[1:-1], -100, 10**9]]) == ["a dog"]
    assert own.decode([]) == []
    for ids in (row, torch.tensor(row)):
        with pytest.raises(InputError, match=r"ids must be \(B, L\)"):
            own.decode(ids)


@pytest.mark.parametrize(
    ("captions", "says"),
    [
        ("a dog", "captions must be sentences, got one string"),
        ([("a dog", "the dog")], r"captions must be sentences, got \('a dog', 'the dog'\)"),
        ([None], "captions must be sentences, got None"),
        (["a \udcff dog"], "half of a surrogate pair"),
        ([" ", ""], "at least one sentence"),
    ],
)
def test_what_is_no_sentence_is_not_trained_on(captions, says):
    for kind in ("auto", "bpe"):
        with pytest.raises(InputError, match=says):
            make_tokenizer(captions, vocab_size=400, kind=kind)


def test_tokenizers_travel_and_are_equal_afterwards(own, tmp_path):
    clip = clip_tokenizer(clip_files(tmp_path), size=540)
    for tokenizer in (own, clip):
        for again in (
            pickle.loads(pickle.dumps(tokenizer)),
            Tokenizer.from_json(tokenizer.to_json()),
            copy.deepcopy(tokenizer),
        ):
            assert again == tokenizer
            assert hash(again) == hash(tokenizer)
            assert (again.kind, again.vocab_size, again.eos_id) == (
                tokenizer.kind,
                tokenizer.vocab_size,
                tokenizer.eos_id,
            )
            assert again.encode_ids(["a dog"], 9) == tokenizer.encode_ids(["a dog"], 9)
    assert own != clip
    assert own != "own"


def test_what_is_no_tokenizer_is_said_to_be_none(own):
    no_normalizer = json.dumps({**json.loads(own.to_json()), "normalizer": None})
    for content in (
        "",
        "{}",
        "[1]",
        '{"model": 3}',
        own.to_json()[:500],
        own.to_json().replace("<bos>", "x"),
        no_normalizer,
    ):
        with pytest.raises(DataError, match="tokenizer"):
            Tokenizer.from_json(content)


def test_a_forked_worker_has_nothing_to_warn_about():
    script = (
        "import os; from moezoo.data.text import train_bpe\n"
        "t = train_bpe(['a dog', 'a cat'] * 50, vocab_size=500); t.encode_ids(['a dog'] * 50, 9)\n"
        "pid = os.fork()\n"
        "if not pid: t.encode_ids(['a dog'] * 50, 9); os._exit(0)\n"
        "os.waitpid(pid, 0); print('TOKENIZERS_PARALLELISM' in os.environ)"
    )
    env = {key: value for key, value in os.environ.items() if key != "TOKENIZERS_PARALLELISM"}
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def by_clips_rules(text):
    """Ids of lower-case words of letters a to z, by CLIP's rules and nobody's library: merge the best pair first."""
    vocabulary, found = clip_vocabulary(), []
    for word in text.lower().split():
        pieces = [*word[:-1], word[-1] + "</w>"]
        for one, other in MERGES:  # in the order of their rank, each wherever it fits
            i = 0
            while i < len(pieces) - 1:
                if (pieces[i], pieces[i + 1]) == (one, other):
                    pieces[i : i + 2] = [one + other]
                i += 1
        found += [vocabulary[piece] for piece in pieces]
    return found


def test_clips_files_are_read_by_clips_rules(tmp_path):
    clip = clip_tokenizer(clip_files(tmp_path), size=540)
    assert (clip.kind, clip.vocab_size, clip.bos_id, clip.eos_id, clip.pad_id) == ("clip", 540, 538, 539, 539)
    ids, mask = clip.encode(["A  photo of a Dog", "dog"], 77, pad_to_max_len=True)
    body = by_clips_rules("a photo of a dog")
    assert body == [ord("a") - 33 + 256, *(512 + i for i in (3, 6)), ord("a") - 33 + 256, 512 + 5]
    assert ids[0].tolist() == [538, *body, 539, *[539] * 70]
    assert mask.sum(1).tolist() == [7, 3]
    assert clip.decode(ids) == ["a photo of a dog", "dog"]
    assert clip.encode_ids(["<|endoftext|>"], 77)[0].count(539) == 1
    assert clip.decode(clip.encode(["naïve 狗!"], 77)[0]) == ["naïve 狗 !"]
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / "tokenizer.json").write_text(clip.to_json())
    assert clip_tokenizer(saved, size=540).encode_ids(["a photo of a dog"], 77) == [[538, *body, 539]]


def test_clips_files_of_another_size_or_none_are_refused_and_auto_falls_back(tmp_path, caplog):
    folder = clip_files(tmp_path / "clip")
    with pytest.raises(DataError, match=r"not hold the CLIP tokenizer of 49,408 tokens: vocab_size is 540"):
        clip_tokenizer(folder)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"looked for: .*vocab\.json and merges\.txt"):
        make_tokenizer(CAPTIONS, vocab_size=50000, kind="clip", clip_path=empty)
    with pytest.raises(DataError, match=r"Hub's cache; looked for .*openai/clip-vit-base-patch32"):
        make_tokenizer(CAPTIONS, vocab_size=50000, kind="clip")
    (folder / "merges.txt").write_text("#version: 0.2\nq\n")
    with pytest.raises(DataError, match=r"cannot be read|49,408"):
        clip_tokenizer(folder)
    for path in (folder, empty, None):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="moezoo"):
            tokenizer = make_tokenizer(CAPTIONS, vocab_size=50000, clip_path=path)
        assert tokenizer.kind == "bpe"
        assert "CLIP's tokenizer is not used: " in caplog.text
        assert f"own byte-level BPE tokenizer: {tokenizer.vocab_size} tokens, trained on 5 captions" in caplog.text


def test_a_vocabulary_must_fit_the_model(tmp_path):
    folder = clip_files(tmp_path)
    assert make_tokenizer([], vocab_size=540, clip_path=folder, clip_size=540).kind == "clip"
    assert make_tokenizer(CAPTIONS, vocab_size=539, clip_path=folder, clip_size=540).kind == "bpe"
    with pytest.raises(ConfigError, match=r"vocab_size=539 .*540 tokens"):
        make_tokenizer([], vocab_size=539, kind="clip", clip_path=folder, clip_size=540)
    assert make_tokenizer(CAPTIONS, vocab_size=540, kind="bpe", clip_path=folder, clip_size=540).kind == "bpe"
    with pytest.raises(ConfigError, match=r"kind='clib' .*Did you mean: clip"):
        make_tokenizer(CAPTIONS, vocab_size=540, kind="clib")


def test_a_vocabulary_of_clips_size_is_found_in_the_cache_without_the_network(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *a: pytest.fail("the network was asked"))
    repo = tmp_path / "models--openai--clip-vit-base-patch16"
    files = clip_files(repo / "snapshots" / ("0" * 40), fillers=CLIP_SIZE - 2 - 2 * 256 - len(MERGES))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert (files / "vocab.json").is_file()
    clip = make_tokenizer([], vocab_size=50000)
    assert (clip.kind, clip.vocab_size, clip.bos_id, clip.eos_id, clip.pad_id) == ("clip", 49408, 49406, 49407, 49407)


def test_clips_true_files_give_the_known_ids():
    """The true files cannot come along; where they are in the Hub's cache, this is the vector everybody knows."""
    try:
        clip = clip_tokenizer()
    except DataError as error:
        pytest.skip(str(error))
    ids, mask = clip.encode(["a photo of a dog"], 77, pad_to_max_len=True)
    assert ids[0].tolist() == [49406, 320, 1125, 539, 320, 1929, *[49407] * 71]
    assert mask.sum() == 7
