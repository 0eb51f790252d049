"""Messages as Flower carries them."""

from __future__ import annotations

from flwr.common import Parameters

from moezoo.errors import InputError
from moezoo.federated.message import Message

TYPE = "moezoo.safetensors"


def packed(message: Message | None) -> Parameters:
    """One tensor of bytes: the whole message, or none."""
    return Parameters([message.to_bytes()] if message is not None else [], TYPE)


def unpacked(parameters: Parameters) -> Message:
    """What :func:`packed` gave.

    Raises:
        InputError: It is something else.
    """
    if parameters.tensor_type != TYPE or len(parameters.tensors) != 1:
        raise InputError(
            f"a federated message must be one {TYPE}, got {len(parameters.tensors)} of {parameters.tensor_type!r}"
        )
    return Message.from_bytes(parameters.tensors[0])
