"""What travels between clients and server: named tensors and plain numbers as one safetensors file in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from moezoo.errors import InputError

KEY = "moezoo_federated"


@dataclass(frozen=True)
class Message:
    """The global tensors: a server's to all clients, or what became of them at one.

    Nothing is ever unpickled.
    """

    state: Mapping[str, Tensor]
    round: int = 0
    """Counted from 1."""
    client: int = -1
    """Who sends it; -1 is the server."""
    images: int = 0
    """Different images it was trained on."""
    tokens: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Of each MoE layer, the tokens that each global expert computed in the round's training."""
    loss: float = 0.0
    """Mean over the images of the round."""

    def to_bytes(self) -> bytes:
        """As it travels."""
        facts = {
            "round": self.round,
            "client": self.client,
            "images": self.images,
            "tokens": {layer: list(counts) for layer, counts in self.tokens.items()},
            "loss": self.loss,
        }
        return save({name: t.contiguous() for name, t in self.state.items()}, {KEY: json.dumps(facts)})

    @staticmethod
    def from_bytes(data: bytes) -> Message:
        """What :meth:`to_bytes` gave.

        Raises:
            InputError: It is no such message.
        """
        try:
            size = int.from_bytes(data[:8], "little")
            facts = json.loads(json.loads(data[8 : 8 + size])["__metadata__"][KEY])
            return Message(
                load(data),
                round=int(facts["round"]),
                client=int(facts["client"]),
                images=int(facts["images"]),
                tokens={str(k): tuple(int(n) for n in v) for k, v in facts["tokens"].items()},
                loss=float(facts["loss"]),
            )
        except (SafetensorError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise InputError(f"a federated message cannot be read: {error}") from None
