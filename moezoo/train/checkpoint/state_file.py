"""``state.json``: a checkpoint's plain values and the hashes of its other files."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import moezoo
from moezoo.errors import CheckpointError
from moezoo.hub.files import file_digest

STATE_NAME = "state.json"
FORMAT_VERSION = 1
"""Raised whenever an older moezoo could not read, or would misread, what is written."""


def plain_json(value: Any, place: str) -> Any:
    """``value`` as it comes back from a JSON file.

    Raises:
        CheckpointError: It is no plain JSON; the entry is named.
    """
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise CheckpointError(f"{place} has the key {wrong[0]!r}; a checkpoint's keys are strings")
        return {key: plain_json(item, f"{place}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, f"{place}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise CheckpointError(f"{place} is {value}; a checkpoint holds finite numbers only")
        return float(value)
    if value is None or type(value) in (bool, int, str):
        return value
    raise CheckpointError(f"{place} is a {type(value).__name__}; a checkpoint's values are plain JSON")


def state_text(step: int, files: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """The content of ``state.json``.

    Args:
        files: sha256 of each file beside it.
        values: Of :func:`plain_json`.
    """
    content = {
        "format_version": FORMAT_VERSION,
        "moezoo_version": moezoo.__version__,
        "step": step,
        "files": dict(files),
        "values": values,
    }
    return json.dumps({**content, "sha256": _digest(content)}, indent=1, allow_nan=False) + "\n"


def read_state(path: Path) -> dict[str, Any]:
    """What ``state.json`` in the checkpoint ``path`` says, after every file there was checked against it.

    Raises:
        CheckpointError: It was written by a newer moezoo, or a file is missing or not what was saved.
    """
    try:
        content = json.loads((path / STATE_NAME).read_bytes())
        version = content["format_version"]
    except FileNotFoundError:
        raise CheckpointError(f"checkpoint {str(path)!r} has no {STATE_NAME}") from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged: {STATE_NAME} cannot be read: {error}") from None
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise NewerCheckpoint(
            f"checkpoint {str(path)!r} has format_version {version}, this moezoo {moezoo.__version__} reads up to "
            f"{FORMAT_VERSION}: it was written by moezoo {content.get('moezoo_version', '?')}, install that or a "
            "newer one."
        )
    try:
        sound = content.pop("sha256") == _digest(content)
        files = dict(content["files"])
    except (LookupError, TypeError, ValueError, AttributeError):
        sound = False
    if not sound or any(Path(name).name != name for name in files):
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged: {STATE_NAME} is not what was saved")
    for name, digest in files.items():
        try:
            same = file_digest(path / name) == digest
        except OSError as error:
            raise CheckpointError(
                f"checkpoint {str(path)!r} is damaged: {name} cannot be read: {error.strerror or error}"
            ) from None
        if not same:
            raise CheckpointError(f"checkpoint {str(path)!r} is damaged: {name} is not the file that was saved")
    return content


class NewerCheckpoint(CheckpointError):
    """A newer moezoo wrote the checkpoint. It is whole, so no older one is taken in its place."""


def _digest(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
