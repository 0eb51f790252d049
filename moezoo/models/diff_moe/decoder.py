"""From image tokens and the words so far to the next word: the decoder of the captioner."""

from __future__ import annotations

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.embed import TextEmbed
from moezoo.models.diff_moe.expert import make_expert
from moezoo.models.diff_moe.fusion import CrossAttention

KeysValues = tuple[Tensor, Tensor]


class Past:
    """What one block keeps of the image and of the words it has seen, so that each new word alone is computed.

    Args:
        image: (B, N, D) image tokens.
        copies: Rows of words for each image, on end.
    """

    def __init__(self, image: Tensor, copies: int):
        self._tokens, self._copies = image, copies
        self._image: KeysValues | None = None
        self.words: KeysValues | None = None

    def image(self, attention: CrossAttention) -> KeysValues:
        """Keys and values of the image for every row, made at the first call."""
        if self._image is None:
            k, v = attention.keys_values(self._tokens)
            self._image = k.repeat_interleave(self._copies, dim=0), v.repeat_interleave(self._copies, dim=0)
        return self._image

    def extend(self, new: KeysValues) -> KeysValues:
        """Keys and values of all words, the new ones kept too."""
        old = self.words
        self.words = new if old is None else (torch.cat((old[0], new[0]), dim=2), torch.cat((old[1], new[1]), dim=2))
        return self.words

    def reorder(self, rows: Tensor) -> None:
        """Row i goes on as row ``rows[i]`` did, which is of the same image."""
        if self.words is not None:
            self.words = self.words[0].index_select(0, rows), self.words[1].index_select(0, rows)


class DecoderBlock(nn.Module):
    """Words attend to the words before them, then to the image, then each passes an expert.

    Args:
        config: The model's.
        drop_path: Stochastic depth of this block.
    """

    def __init__(self, config: DiffMoEConfig, *, drop_path: float = 0.0):
        super().__init__()
        dim, heads, eps = config.embed_dim, config.num_heads, config.layer_norm_eps
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.self_attn = CrossAttention(dim, heads, proj_drop=config.dropout)
        self.self_attn.cross = False
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, heads, proj_drop=config.dropout)
        self.mlp = make_expert(config)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, image: Tensor | None, mask: Tensor, past: Past | None = None) -> Tensor:
        """(B, L, D) to (B, L, D).

        Args:
            x: The words, with ``past`` the new ones.
            image: (B, N, D); with ``past``, which knows it, not needed.
            mask: (B or 1, L, words so far) bool, which words a word may look at.
            past: Of the words before.
        """
        words = self.norm1(x)
        seen = self.self_attn.keys_values(words)
        x = x + self.drop_path(self.self_attn.attend(words, *(seen if past is None else past.extend(seen)), mask=mask))
        words = self.norm2(x)
        if past is None:
            looked = self.cross_attn(words, image)
        else:
            looked = self.cross_attn.attend(words, *past.image(self.cross_attn))
        x = x + self.drop_path(looked)
        return x + self.drop_path(self.mlp(x))


class Decoder(nn.Module):
    """Embedding, blocks, and a head that shares its matrix with the embedding.

    Args:
        config: The model's.
    """

    def __init__(self, config: DiffMoEConfig):
        super().__init__()
        rates = torch.linspace(0, config.drop_path_rate, config.decoder_layers, device="cpu").tolist()
        self.embed = TextEmbed(config)
        self.blocks = nn.ModuleList(DecoderBlock(config, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.to_words = nn.Linear(config.embed_dim, config.text_embed_dim)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.grad_checkpointing = config.use_gradient_checkpointing

    def forward(self, ids: Tensor, image: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits (B, L, V): at each place those of the word that follows.

        Args:
            ids: (B, L) token ids.
            image: (B, N, D) image tokens.
            mask: (B, L) bool, True for real tokens; ``None`` means all are.
        """
        x, allowed = self.embed(ids), _causal(ids.shape[1], ids.shape[1], ids.device)
        if mask is not None:
            allowed = allowed & mask[:, None, :]
            # What stands before the first real word looks at itself: a row without keys would be NaN.
            itself = torch.eye(ids.shape[1], dtype=torch.bool, device=ids.device)
            allowed = allowed | itself & ~allowed.any(-1, keepdim=True)
        recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.blocks:
            if recompute and not torch.compiler.is_compiling():
                x = checkpoint(block, x, image, allowed, use_reentrant=False)
            else:
                x = block(x, image, allowed)
        return self._logits(x)

    def begin(self, image: Tensor, copies: int) -> list[Past]:
        """What the blocks keep of (B, N, D) image tokens, ``copies`` rows for each image, for :meth:`step`."""
        return [Past(image, copies) for _ in self.blocks]

    def step(self, ids: Tensor, first: int, pasts: list[Past]) -> Tensor:
        """Logits (B, V) of what follows the new ids (B, n), which stand at the places from ``first`` on."""
        x, allowed = self.embed(ids, first), _causal(ids.shape[1], first + ids.shape[1], ids.device)
        for block, past in zip(self.blocks, pasts, strict=True):
            x = block(x, None, allowed, past)
        return self._logits(x[:, -1])

    def token_geometry(self, shape: torch.Size) -> tuple[None, int]:
        """For pictures: words lie on no grid."""
        return None, 0

    def _logits(self, x: Tensor) -> Tensor:
        return F.linear(self.to_words(self.norm(x)), self.embed.words.weight, self.bias)


def _causal(new: int, total: int, device: torch.device) -> Tensor:
    """(1, new, total) bool: each of the last ``new`` words may look at itself and at what stands before it."""
    return torch.ones(1, new, total, dtype=torch.bool, device=device).tril(total - new)
