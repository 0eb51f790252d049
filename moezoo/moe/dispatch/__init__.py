"""Dispatch: from a routing to rows sorted by expert, and back."""

from moezoo.moe.dispatch.plan import Plan, make_plan

__all__ = ["Plan", "make_plan"]
