"""Rounding of symbolic numbers in words that ``torch.export.save`` knows.

A capacity is a rounded multiple of the batch. The graph then holds ``math.ceil``, ``math.floor`` or ``round``, which
PyTorch's files have no name for; they have truncation, comparison and choice.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, Node


def spell_out_rounding(graph: Graph) -> None:
    """Replace ``ceil(x)``, ``floor(x)`` and ``round(x)`` (halves to the even number) of symbolic numbers."""
    for node in list(graph.nodes):
        if node.op != "call_function" or node.target not in _SPELLED or node.args[1:] not in ((), (None,)):
            continue  # round to some digits is none of these: it gives no whole number
        with graph.inserting_before(node):
            spelled = _SPELLED[node.target](graph, node.args[0])
        spelled.meta["val"] = node.meta["val"]  # the same number, in the form that other shapes are stated in
        node.replace_all_uses_with(spelled)
        graph.erase_node(node)


def _ceil(graph: Graph, x: Any) -> Node:
    """``t + 1 if x > t else t`` with ``t = trunc(x)``."""
    whole = _call(graph, math.trunc, x)
    return _choice(graph, _call(graph, operator.gt, x, whole), _call(graph, operator.add, whole, 1), whole)


def _floor(graph: Graph, x: Any) -> Node:
    """``t - 1 if x < t else t`` with ``t = trunc(x)``."""
    whole = _call(graph, math.trunc, x)
    return _choice(graph, _call(graph, operator.lt, x, whole), _call(graph, operator.sub, whole, 1), whole)


def _round(graph: Graph, x: Any) -> Node:
    """``f``, or ``f + 1`` above the half, or from the half on where ``f = floor(x)`` is odd."""
    whole = _floor(graph, x)
    beyond = _call(graph, operator.sub, x, whole)
    more, odd = _call(graph, operator.add, whole, 1), _call(graph, operator.mod, whole, 2)
    even = _call(graph, operator.add, whole, odd)
    at_most_half = _choice(graph, _call(graph, operator.lt, beyond, 0.5), whole, even)
    return _choice(graph, _call(graph, operator.gt, beyond, 0.5), more, at_most_half)


_SPELLED: dict[Callable, Callable[[Graph, Any], Node]] = {math.ceil: _ceil, math.floor: _floor, round: _round}


def _choice(graph: Graph, condition: Node, one: Node, other: Node) -> Node:
    return _call(graph, torch.sym_ite, condition, one, other)


def _call(graph: Graph, function: Callable, *args: Any) -> Node:
    """A node with the symbolic value that the function gives."""
    node = graph.call_function(function, args)
    node.meta["val"] = function(*(arg.meta["val"] if isinstance(arg, Node) else arg for arg in args))
    return node
