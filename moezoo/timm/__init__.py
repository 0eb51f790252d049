"""``import moezoo.timm``: moezoo's models under timm's own ``create_model`` and ``list_models``, for timm's loops.

Names are in timm's spelling, a variant takes the place of the weight tag (``entity_moe_vit_base.last``), and the
auxiliary losses are attached, so a training script that knows nothing of MoE trains right. Nothing of timm changes
before this import. ``python -m moezoo.timm train.py …`` runs a script with it.
"""

from __future__ import annotations

from moezoo.timm.registration import register

__all__ = ["register"]

register()
