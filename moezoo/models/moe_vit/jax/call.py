"""The reference's way to name a class in a configuration: ``Name``, ``package.module.Name`` or ``Name(key=value)``."""

from __future__ import annotations

import ast
from typing import Any

from moezoo.errors import ConfigError


def parse_call(text: str, place: str) -> tuple[str, dict[str, Any]]:
    """The last part of the name, and the arguments.

    Raises:
        ConfigError: ``text`` is no such call.
    """
    try:
        node = ast.parse(text, mode="eval").body
        arguments: dict[str, Any] = {}
        if isinstance(node, ast.Call):
            if node.args or any(keyword.arg is None for keyword in node.keywords):
                raise ValueError("arguments are given by name")
            arguments = {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in node.keywords}
            node = node.func
        if isinstance(node, ast.Name):
            return node.id, arguments
        if isinstance(node, ast.Attribute):
            return node.attr, arguments
        raise ValueError("no name")
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{place}={text!r:.80} is not allowed: it must be the name of a class ({error}).") from None
