"""The model families. Each is a folder of four files: ``config.py`` and ``presets.py`` (no torch), ``model.py``, and its parts."""

FAMILIES = ("entity_moe",)
