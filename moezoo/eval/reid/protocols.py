"""Which gallery images count for a query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moezoo.moe.checks import check_choice


@dataclass(frozen=True)
class Protocol:
    """The rule of one benchmark."""

    same: Literal["camera", "scene"] | None
    """A gallery image of the query's own identity and the same of this is left out: it would be found too easily."""
    drops_junk: bool = True
    """Gallery images of the identity -1, false detections, are left out."""


PROTOCOLS = {
    "market1501": Protocol("camera"),
    "rgbnt201": Protocol("camera"),
    "rgbnt100": Protocol("camera"),
    "msvr310": Protocol("scene"),
    "none": Protocol(None, drops_junk=False),
}


def protocol_of(name: str) -> Protocol:
    """The protocol called ``name``.

    Raises:
        ConfigError: There is none; it says the nearest.
    """
    return PROTOCOLS[check_choice("protocol", name, PROTOCOLS)]
