"""Data sets by name, prepared for a model: ``load_dataset("digits", **input_options(model))``."""

from moezoo.data.load import input_options, load_dataset, register_dataset
from moezoo.data.splits import ImageTensors, Splits

__all__ = ["ImageTensors", "Splits", "input_options", "load_dataset", "register_dataset"]
