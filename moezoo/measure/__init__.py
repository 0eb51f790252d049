"""What a model costs: FLOPs that were executed, latency, memory, and parameters, total and active."""

from moezoo.measure.flops import Flops, flops
from moezoo.measure.latency import Latency, latency, paired_ratio
from moezoo.measure.memory import Memory, memory
from moezoo.measure.parameters import Parameters, parameters

__all__ = [
    "Flops",
    "Latency",
    "Memory",
    "Parameters",
    "flops",
    "latency",
    "memory",
    "paired_ratio",
    "parameters",
]
