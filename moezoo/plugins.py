"""Loading what registers models: moezoo's own families, then the packages that declare the ``moezoo.models`` group."""

from __future__ import annotations

import importlib
import warnings
from importlib.metadata import entry_points

from moezoo.errors import MoeZooWarning

GROUP = "moezoo.models"
_loaded = False


def load_all() -> None:
    """Import every presets module once. A plugin that fails only warns: somebody else's mistake must not stop you."""
    global _loaded
    if _loaded:
        return
    _loaded = True
    for family in importlib.import_module("moezoo.models").FAMILIES:
        importlib.import_module(f"moezoo.models.{family}.presets")
    for entry_point in entry_points(group=GROUP):
        try:
            entry_point.load()
        except Exception as error:
            warnings.warn(
                f"the moezoo plugin {entry_point.name!r} ({entry_point.value}) could not be loaded: {error!r}",
                MoeZooWarning,
                stacklevel=2,
            )
