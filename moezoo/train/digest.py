"""A short fingerprint of plain data."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def digest(value: Any) -> str:
    """Equal for equal JSON-like data."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
