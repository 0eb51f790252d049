"""Design spaces: what may be chosen, and how a choice becomes a model."""

from moezoo.search.spaces.anynet import AnyNet
from moezoo.search.spaces.base import Design, Prepared, Space
from moezoo.search.spaces.catalogue import find_space, list_spaces, register_space
from moezoo.search.spaces.models import ModelSpace
from moezoo.search.spaces.modules import ModuleSpace
from moezoo.search.spaces.regnets import AnyNetX, RegNetSpace, Size
from moezoo.search.spaces.stages import Stages, block_widths, regnet_stages
from moezoo.search.spaces.upcycled import UpcycledVit

__all__ = [
    "AnyNet",
    "AnyNetX",
    "Design",
    "ModelSpace",
    "ModuleSpace",
    "Prepared",
    "RegNetSpace",
    "Size",
    "Space",
    "Stages",
    "UpcycledVit",
    "block_widths",
    "find_space",
    "list_spaces",
    "regnet_stages",
    "register_space",
]
