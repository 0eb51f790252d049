"""Exporting a model to ONNX or to PyTorch's exchange file, with a check that the file computes what the model does."""

from moezoo.export.export import Exported, export_model
from moezoo.export.formats import FORMATS, check_target
from moezoo.export.parity import Parity

__all__ = ["FORMATS", "Exported", "Parity", "check_target", "export_model"]
