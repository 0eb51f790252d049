"""The model families. Each is a folder: ``config.py`` and ``presets.py`` (no torch), ``model.py``, and its parts."""

FAMILIES = ("entity_moe",)
