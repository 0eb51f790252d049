"""Which of the reference's arrays a parameter of ours is: names, shapes, and the order of the axes. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from moezoo.models.moe_vit.config import MoEViTConfig


@dataclass(frozen=True)
class Part:
    """One array of the reference. Ours has its axes in the order ``axes``, some of them merged."""

    name: str
    shape: tuple[int, ...]
    """As the reference has it."""
    axes: tuple[int, ...]

    @property
    def turned(self) -> tuple[int, ...]:
        """``shape`` in the order ``axes``."""
        return tuple(self.shape[axis] for axis in self.axes)


@dataclass(frozen=True)
class Entry:
    """One parameter of ours: a part, or several one after the other."""

    key: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def plain(key: str, name: str, *shape: int) -> Entry:
    """The same array."""
    return Entry(key, shape, (Part(name, shape, tuple(range(len(shape)))),))


def linear(key: str, name: str, before: int, after: int) -> Iterator[Entry]:
    """A kernel (before, after) as a weight (after, before), and the bias."""
    yield Entry(f"{key}.weight", (after, before), (Part(f"{name}/kernel", (before, after), (1, 0)),))
    yield plain(f"{key}.bias", f"{name}/bias", after)


def norm(key: str, name: str, width: int) -> Iterator[Entry]:
    """A layer norm."""
    yield plain(f"{key}.weight", f"{name}/scale", width)
    yield plain(f"{key}.bias", f"{name}/bias", width)


def heads_in(key: str, name: str, roles: tuple[str, ...], width: int, heads: int) -> Iterator[Entry]:
    """Projections to heads, one after the other along the output."""
    size, total = width // heads, len(roles) * width
    kernels = tuple(Part(f"{name}/{role}/kernel", (width, heads, size), (1, 2, 0)) for role in roles)
    biases = tuple(Part(f"{name}/{role}/bias", (heads, size), (0, 1)) for role in roles)
    yield Entry(f"{key}.weight", (total, width), kernels)
    yield Entry(f"{key}.bias", (total,), biases)


def heads_out(key: str, name: str, width: int, heads: int) -> Iterator[Entry]:
    """The projection back."""
    kernel = Part(f"{name}/out/kernel", (heads, width // heads, width), (2, 0, 1))
    yield Entry(f"{key}.weight", (width, width), (kernel,))
    yield plain(f"{key}.bias", f"{name}/out/bias", width)


def head_norms(key: str, name: str, width: int, heads: int) -> Iterator[Entry]:
    """The norms of queries and keys, which have no bias."""
    yield plain(f"{key}.q_norm.weight", f"{name}/query_ln/scale", width // heads)
    yield plain(f"{key}.k_norm.weight", f"{name}/key_ln/scale", width // heads)


def experts(key: str, name: str, num: int, before: int, after: int, ours: str) -> Iterator[Entry]:
    """A kernel and a bias for every expert."""
    kernel = Part(f"{name}/kernel", (num, before, after), (0, 2, 1))
    yield Entry(f"{key}.w_{ours}", (num, after, before), (kernel,))
    yield plain(f"{key}.b_{ours}", f"{name}/bias", num, after)


def mlp(key: str, name: str, width: int, hidden: int) -> Iterator[Entry]:
    """Two linear maps."""
    yield from linear(f"{key}.fc1", f"{name}/Dense_0", width, hidden)
    yield from linear(f"{key}.fc2", f"{name}/Dense_1", hidden, width)


def moe(config: MoEViTConfig, key: str, name: str) -> Iterator[Entry]:
    """Router and experts."""
    width, num = config.hidden_size, config.num_experts
    if (slots := getattr(config, "slots", None)) is not None:
        yield plain(f"{key}.router.phi", f"{name}/Router/mu", width, num, slots)
        yield Entry(f"{key}.router.scale", (1,), (Part(f"{name}/Router/scale", (), ()),))
    else:
        kernel = Part(f"{name}/Router/dense/kernel", (width, num), (1, 0))
        yield Entry(f"{key}.router.weight", (num, width), (kernel,))
    yield from experts(f"{key}.experts", f"{name}/Mlp/Dense_0", num, width, config.expert_width, "in")
    yield from experts(f"{key}.experts", f"{name}/Mlp/Dense_1", num, config.expert_width, width, "out")


def block(config: MoEViTConfig, index: int) -> Iterator[Entry]:
    """One block of the encoder."""
    key, name = f"blocks.{index}", f"Encoder/encoderblock_{index}"
    width, heads = config.hidden_size, config.num_heads
    yield from norm(f"{key}.norm1", f"{name}/LayerNorm_0", width)
    yield from heads_in(f"{key}.attn.qkv", f"{name}/SelfAttention", ("query", "key", "value"), width, heads)
    if config.qk_norm:
        yield from head_norms(f"{key}.attn", f"{name}/SelfAttention", width, heads)
    yield from heads_out(f"{key}.attn.proj", f"{name}/SelfAttention", width, heads)
    yield from norm(f"{key}.norm2", f"{name}/LayerNorm_1", width)
    if index in config.placement:
        yield from moe(config, f"{key}.mlp", f"{name}/Moe")
    else:
        yield from mlp(f"{key}.mlp", f"{name}/Mlp", width, config.mlp_dim)


def map_head(config: MoEViTConfig) -> Iterator[Entry]:
    """Pooling by a learned query."""
    width, heads, name = config.hidden_size, config.num_heads, "MapHead/MultiHeadDotProductAttention"
    yield plain("attn_pool.latent", "MapHead/probe", 1, 1, width)
    yield from heads_in("attn_pool.q", name, ("query",), width, heads)
    yield from heads_in("attn_pool.kv", name, ("key", "value"), width, heads)
    if config.qk_norm:
        yield from head_norms("attn_pool", name, width, heads)
    yield from heads_out("attn_pool.proj", name, width, heads)
    yield from norm("attn_pool.norm", "MapHead/LayerNorm", width)
    yield from mlp("attn_pool.mlp", "MapHead/Mlp", width, config.mlp_dim)


def entries(config: MoEViTConfig) -> list[Entry]:
    """All parameters of a model of this configuration, in the order of the forward pass."""
    width, (down, right), channels = config.hidden_size, config.patch, config.in_channels
    kernel = Part("embedding/kernel", (down, right, channels, width), (3, 2, 0, 1))
    found = [
        Entry("patch_embed.proj.weight", (width, channels, down, right), (kernel,)),
        plain("patch_embed.proj.bias", "embedding/bias", width),
    ]
    if config.classifier == "token":
        found.append(plain("cls_token", "cls", 1, 1, width))
    if config.position == "learned":
        found.append(plain("pos_embed", "Encoder/posembed_input/pos_embedding", 1, config.num_tokens, width))
    for index in range(config.num_layers):
        found += block(config, index)
    found += norm("norm", "Encoder/encoder_norm", width)
    if config.classifier == "map":
        found += map_head(config)
    if config.representation_size is not None:
        found += linear("pre_logits", "pre_logits", width, config.representation_size)
        width = config.representation_size
    if config.num_classes:
        found += linear("head", "head", width, config.num_classes)
    for entry in found:
        assert math.prod(entry.shape) == sum(math.prod(part.shape) for part in entry.parts), entry
    return found
