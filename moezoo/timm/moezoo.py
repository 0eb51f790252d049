"""The functions timm calls, put here by :func:`moezoo.timm.register`.

timm knows a model's module by the last part of its path, so ``timm.list_models(module="moezoo")`` lists these.
"""

from __future__ import annotations

from typing import Any

default_cfgs: dict[str, Any] = {}
__all__: list[str] = []
