"""State-dict keys of a wrapper without a prefix, so that its checkpoints are those of the module inside it."""

from __future__ import annotations

from typing import Any

from torch import nn

PREFIX = "model."


def hide_prefix(wrapper: nn.Module) -> None:
    """Let the keys of ``wrapper.model`` stand in the wrapper's state dict as they stand in its own."""
    wrapper.register_state_dict_post_hook(_drop_prefix)
    wrapper.register_load_state_dict_pre_hook(_add_prefix)


def _drop_prefix(module: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    for key in [k for k in state if k.startswith(prefix + PREFIX)]:
        state[prefix + key[len(prefix + PREFIX) :]] = state.pop(key)


def _add_prefix(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    beside = tuple(f"{prefix}{name}." for name, _ in module.named_children() if f"{name}." != PREFIX)
    for key in [k for k in state if k.startswith(prefix) and not k.startswith(beside)]:
        state[prefix + PREFIX + key[len(prefix) :]] = state.pop(key)
