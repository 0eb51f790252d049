"""The model families. Each is a folder: ``config.py`` and ``presets.py`` (no torch), ``model.py``, and its parts."""

import importlib

FAMILIES = (
    "entity_moe",
    "diff_moe",
    "attention_routing",
    "multiscale_moe",
    "vmoe",
    "soft_moe",
    "swin_moe",
    "mobile_vmoe",
)


def __getattr__(name: str):
    if name in FAMILIES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
