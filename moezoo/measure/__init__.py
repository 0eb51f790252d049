"""What a model costs: FLOPs that were executed, latency, memory, parameters, total and active; and where time goes."""

from moezoo.measure.flops import Flops, flops
from moezoo.measure.latency import Latency, latency, paired_ratio
from moezoo.measure.memory import Memory, memory
from moezoo.measure.parameters import Parameters, parameters
from moezoo.measure.per_image import PerImageFlops, flops_per_image
from moezoo.measure.profile import profile
from moezoo.measure.profile_result import Profile

__all__ = [
    "Flops",
    "Latency",
    "Memory",
    "Parameters",
    "PerImageFlops",
    "Profile",
    "flops",
    "flops_per_image",
    "latency",
    "memory",
    "paired_ratio",
    "parameters",
    "profile",
]
