"""The further arguments of a part found by name: which ones its class has, and an error for those it has not."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

from moezoo.errors import ConfigError
from moezoo.names import did_you_mean


def own_arguments(cls: type, given: Collection[str]) -> list[str]:
    """The constructor arguments of ``cls`` and of the base classes it hands ``**arguments`` on to.

    Args:
        cls: The class.
        given: Arguments of every class of its kind, which are left out.
    """
    own: list[str] = []
    for base in cls.__mro__:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(base.__init__).parameters.values())  # type: ignore[misc]
            own += [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                break  # it hands nothing on that it does not name
    return [name for name in dict.fromkeys(own) if name not in given]


def check_arguments(
    argument: str, part: str, args: Mapping[str, Any] | None, allowed: Collection[str]
) -> dict[str, Any]:
    """``args`` as a dict.

    Raises:
        ConfigError: It is no mapping, or names something that is not ``allowed``.
    """
    if not isinstance(args, (Mapping, type(None))):
        raise ConfigError(f"{argument}={args!r} is not allowed: it must map arguments of the {part} to values.")
    for key in args or ():
        if key not in allowed:
            raise ConfigError(
                f"{argument}: {part} has no argument {key!r}.{did_you_mean(str(key), allowed)} "
                f"Allowed: {', '.join(allowed) or 'none'}."
            )
    return dict(args or {})
