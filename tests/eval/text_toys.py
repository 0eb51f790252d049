"""Two small encoders of images and sentences, and a tokenizer of words, to test what runs on such models."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer


class WordTokenizer:
    """Every word of ``words`` is a token; 0 is padding."""

    def __init__(self, words: str):
        self.words = words.split()
        self.vocab_size = 1 + len(self.words)

    def encode(self, texts, max_len):
        rows = self.encode_ids(texts, max_len)
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids, ids > 0

    def encode_ids(self, texts, max_len):
        return [[1 + self.words.index(word) for word in text.lower().split()][:max_len] for text in texts]

    def decode(self, ids):
        return [" ".join(self.words[i - 1] for i in row if i) for row in ids]

    def count(self, text):
        return len(text.split())

    def check_fits(self, vocab_size):
        if self.vocab_size > vocab_size:
            raise ConfigError(f"{self.vocab_size} tokens, vocab_size={vocab_size}")


class TwoTowers(nn.Module):
    """(B, 1, 2, 2) images and words, each to 4 features; a head on the image, or on the text where there is some."""

    takes_text = True

    def __init__(self, words: str, classes: int = 3):
        super().__init__()
        self.tokenizer = WordTokenizer(words)
        self.words = nn.Embedding(self.tokenizer.vocab_size, 4)
        self.moe = MoELayer(4, num_experts=2, hidden_dim=8)
        self.head = nn.Linear(4, classes)
        self.seen: list[int] = []

    def encode_image(self, images: Tensor) -> Tensor:
        return self.moe(images.flatten(1))

    def encode_text(self, text: Tensor, mask: Tensor) -> Tensor:
        assert not self.training
        self.seen.append(len(text))
        return (self.words(text) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)

    def forward(self, images: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> dict[str, Tensor]:
        features = self.encode_image(images)
        if text is not None:
            assert mask is not None
            features = self.encode_text(text, mask)
        return {"embeddings": features, "logits": self.head(features)}


class Captioner(nn.Module):
    """Says one of ``sentences``: the one whose number is the first pixel."""

    takes_text = True

    def __init__(self, sentences, words: str):
        super().__init__()
        self.tokenizer, self.sentences = WordTokenizer(words), sentences
        self.moe = MoELayer(4, num_experts=2, hidden_dim=8)
        self.options: dict = {}

    def generate(self, images, **options):
        raise AssertionError("caption is asked")

    def caption(self, images: Tensor, **options) -> list[str]:
        assert not self.training
        self.options = options
        self.moe(images.flatten(1))
        return [self.sentences[int(image[0, 0, 0])] for image in images]


class Pairs(torch.utils.data.Dataset):
    """Images with whatever belongs to them."""

    def __init__(self, images, others):
        self.images, self.others = images, others

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.others[index]
