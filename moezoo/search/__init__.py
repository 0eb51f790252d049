"""Searching architectures: design spaces, how good they are, and good designs in them."""

from moezoo.search.compare import compare_spaces
from moezoo.search.edf import EdfReport, ErrorEdf, error_edf
from moezoo.search.nas.architecture import ArchitectureSearch
from moezoo.search.nas.result import Found, SearchResult, pareto_front
from moezoo.search.sample import sample_space
from moezoo.search.spaces import (
    Design,
    ModelSpace,
    Space,
    Stages,
    find_space,
    list_spaces,
    register_space,
    regnet_stages,
)
from moezoo.search.trial import Trained

__all__ = [
    "ArchitectureSearch",
    "Design",
    "EdfReport",
    "ErrorEdf",
    "Found",
    "ModelSpace",
    "SearchResult",
    "Space",
    "Stages",
    "Trained",
    "compare_spaces",
    "error_edf",
    "find_space",
    "list_spaces",
    "pareto_front",
    "register_space",
    "regnet_stages",
    "sample_space",
]
