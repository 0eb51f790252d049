"""Rounding of symbolic numbers in words that ``torch.export.save`` knows.

A capacity is a rounded multiple of the batch. The graph then holds ``math.ceil`` or ``math.floor``, which PyTorch's
files have no name for; they have truncation, comparison and choice.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node


def spell_out_rounding(graph: Graph) -> None:
    """Replace ``ceil(x)`` by ``t + 1 if x > t else t`` with ``t = trunc(x)``, and ``floor(x)`` likewise."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in (math.ceil, math.floor):
            continue
        (x,) = node.args
        beyond, step = (operator.gt, operator.add) if node.target is math.ceil else (operator.lt, operator.sub)
        with graph.inserting_before(node):
            whole = _call(graph, math.trunc, x)
            choice = _call(graph, torch.sym_ite, _call(graph, beyond, x, whole), _call(graph, step, whole, 1), whole)
        choice.meta["val"] = node.meta["val"]  # the same number, in the form that other shapes are stated in
        node.replace_all_uses_with(choice)
        graph.erase_node(node)


def _call(graph: Graph, function: Callable, *args: Any) -> Node:
    """A node with the symbolic value that the function gives."""
    node = graph.call_function(function, args)
    node.meta["val"] = function(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node
