"""Along which axis a parameter is cut into pieces, one for each process."""

from __future__ import annotations

from collections.abc import Sequence

SPARE = 1.5
"""How much larger padding may make a parameter without another axis being looked for."""
MOST = 8.0
"""How much larger at most; a parameter beyond stays whole."""


def find_cut(shape: Sequence[int], parts: int, *, spare: float = SPARE) -> int | None:
    """The axis to cut ``shape`` along into ``parts``; ``None`` where that would waste more than it saves.

    Pieces of the first axis are padded to one size, and gathering them moves the padding too: eight experts cut into
    64 pieces would travel as 64. Other axes can only be cut evenly.

    Args:
        shape: Of the parameter.
        parts: How many processes there are.
        spare: Up to which padding the first axis is taken even if another one needs none.
    """
    padding = -(-shape[0] // parts) * parts / shape[0] if shape and shape[0] else float("inf")
    if padding <= spare:
        return 0
    even = [axis for axis in range(1, len(shape)) if shape[axis] and shape[axis] % parts == 0]
    if even:
        return even[0]
    return 0 if padding <= MOST else None
