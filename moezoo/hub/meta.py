"""Models that begin on the meta device and get their memory from the files: half the memory, no initialisation."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._pytree import tree_leaves

from moezoo.errors import ConfigError
from moezoo.hub.load import Files, load_files

_REGISTERED = ("_parameters", "_buffers", "_modules")


def load_skeleton(model: nn.Module, files: Files) -> bool:
    """Give a model built on the meta device the tensors of ``files``, if those are all that it lacks.

    Tensors that no file holds (buffers that are not saved, constants) have no values on the meta device, and tied
    ones would come apart. A model with such is left alone, to be built in the ordinary way.

    Returns:
        Whether the model is complete now.

    Raises:
        WeightsError: As of :func:`~moezoo.hub.load.load_weights`.
    """
    if torch.get_default_device().type == "meta":
        return True  # what was asked for has no values
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    tied = len({id(tensor) for _, tensor in named}) != len(named)
    stored = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    if (
        tied
        or any(id(tensor) not in stored for _, tensor in named)
        or any(_on_meta(value) for value in _constants(model))
    ):
        return False
    load_files(model, files, assign=True)
    return True


@contextmanager
def at_most_parameters(limit: int) -> Iterator[None]:
    """Stop this thread from building a model of more parameter tensors: even without memory a million layers are many.

    Raises:
        ConfigError: It was about to.
    """
    thread, count = threading.get_ident(), 0

    def registered(*_: Any) -> None:
        nonlocal count
        count += threading.get_ident() == thread
        if count > limit:
            raise ConfigError(
                f"the stored configuration asks for more than {limit:,} parameter tensors, unlike its files"
            )

    handle = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        handle.remove()


def _constants(model: nn.Module) -> Iterator[Any]:
    """What modules hold beside parameters and buffers."""
    for module in model.modules():
        yield from tree_leaves([value for key, value in vars(module).items() if key not in _REGISTERED])


def _on_meta(value: Any) -> bool:
    return (isinstance(value, Tensor) and value.is_meta) or (isinstance(value, torch.device) and value.type == "meta")
