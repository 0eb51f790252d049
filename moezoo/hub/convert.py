"""Other people's pickled checkpoints as safetensors, read without running anything in them."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from moezoo.errors import ConfigError, InputError, OutputError, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.files import check_writable, drafted, exclusive
from moezoo.hub.state import portable, refuse_nonfinite, shown
from moezoo.names import did_you_mean

NESTED = ("state_dict", "model_state_dict", "model", "module", "net", "network", "weights")
"""Keys under which training scripts keep a state dict, first match wins."""
PREFIXES = ("module.", "_orig_mod.")
"""What data-parallel and compile wrappers put before every name."""


def convert_pth(
    file: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write the tensors of a ``torch.save`` file as safetensors.

    Read by ``torch.load(weights_only=True)``, so nothing in the file is run. A state dict inside a checkpoint is found
    by the usual names; the prefixes of wrappers are dropped.

    Args:
        file: A ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` file.
        out: The new file; by default beside the old one with the suffix ``.safetensors``.
        key: Where in the checkpoint the state dict is, ``a.b`` for nested ones.
        overwrite: Replace ``out`` where it exists.

    Returns:
        The new file.

    Raises:
        WeightsUnavailable: There is no such file.
        WeightsCorrupted: It is damaged, or holds more than plain data, which could run code.
        InputError: It holds no state dict; what it does hold is listed.
        NonFiniteError: A tensor holds NaN or infinity.
        OutputError: The new file exists or cannot be written.
    """
    source = Path(file)
    if not source.is_file():
        raise WeightsUnavailable(f"there is no file {str(source)!r}")
    target = source.with_suffix(".safetensors") if out is None else Path(out)
    if target.suffix != ".safetensors":
        raise ConfigError(f"out={str(target)!r} must end in .safetensors")
    if target.exists() and not overwrite:
        raise OutputError(f"{str(target)!r} exists: overwrite=True (--overwrite) replaces it, out= names another")
    state = portable(_unwrapped_names(_state_dict(_read(source), key, str(source))), str(source))
    refuse_nonfinite(state, repr(str(source)))
    with exclusive(check_writable(target.parent)), drafted(target) as draft:
        save_file(state, draft, metadata={"format": "pt"})
    return target


def _read(source: Path) -> Any:
    try:
        return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        why = str(error).partition("\n")[0]
        raise WeightsCorrupted(
            f"{str(source)!r} holds more than tensors and plain data, and was not run: {why:.300}. Where you trust it, "
            "take the state dict out with the program that wrote it and save that alone."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise WeightsCorrupted(f"{str(source)!r} is no sound torch.save file: {error!r:.300}") from None


def _state_dict(content: Any, key: str | None, place: str) -> Mapping[str, Tensor]:
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            names = [str(name) for name in content] if isinstance(content, Mapping) else []
            raise InputError(f"{place}: key={key!r}: there is no {part!r}.{did_you_mean(part, names)} {_told(content)}")
        content = content[part]
    for _ in () if key else NESTED:  # not while: a pickle may hold itself
        if isinstance(content, Mapping) and not _is_state_dict(content):
            content = next((content[name] for name in NESTED if isinstance(content.get(name), Mapping)), content)
    if not _is_state_dict(content):
        raise InputError(f"{place}: no state dict (a mapping of names to tensors) was found. {_told(content)}")
    return content


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _told(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"It holds a {type(content).__name__}."
    # Tensors last: what keeps a state dict from being one comes first.
    items = sorted(content.items(), key=lambda item: isinstance(item[1], Tensor))
    return f"It holds {shown([f'{name} ({type(value).__name__})' for name, value in items])}; key= names one."


def _unwrapped_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    result = dict(state)
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in result)), None):
        result = {name.removeprefix(prefix): tensor for name, tensor in result.items()}
    return result
