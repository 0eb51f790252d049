"""An explanation in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moezoo.eval.explanation.result import Case, ExpertPart

NOTED = 3
"""Other modalities or scales that are named beside the first."""


def sentences(case: Case) -> Iterator[str]:
    """What was decided, by which modality, region, scale and expert, and how far that can be trusted."""
    yield f"Decision: {case.decision}."
    if len(case.modalities) > 1:
        first, *others = sorted((m for m in case.modalities if m.present), key=lambda each: -each.effect)
        rest = ", ".join(f"{each.name} {each.effect:.3g}" for each in others[:NOTED])
        if first.effect > 0:
            yield (
                f"{first.name} counts most{'' if first.weight is None else f', with {first.weight:.0%} of the gate'}: "
                f"without it the {case.unit} falls by {first.effect:.3g}{f' (without others: {rest})' if rest else ''}."
            )
        else:
            yield "No spectrum is missed when it alone is erased."
        if missing := [each.name for each in case.modalities if not each.present]:
            yield f"Not there: {', '.join(missing)}."
    if case.region is None:
        yield "No part of the image speaks for the decision."
    else:
        of = case.region.modality if len(case.modalities) > 1 else "the image"
        yield f"It rests on the {case.region.place} part of {of}, with {case.region.share:.0%} of what speaks for it."
    if (scale := case.scale) is not None:
        if scale.effect > 0:
            yield f"The scale that decided is {scale.label}{_weighed(case, scale)}."
        else:
            yield "No scale is missed when it alone is left out."
    expert = case.expert
    if expert is not None and expert is not scale:
        what = f"expert {expert.expert}"
        if expert.label != what:
            what = f"{what} ({expert.label})" if expert.kind == "expert" else f"the {expert.label} expert"
        if expert.effect > 0:
            yield f"Of all experts {what} of {expert.layer} counts most{_weighed(case, expert)}."
        else:
            yield "No expert speaks for the decision."
    yield _trust(case)


def _weighed(case: Case, part: ExpertPart) -> str:
    weight = "" if part.weight is None else f", with {part.weight:.0%} of the layer's weight"
    return f"{weight}: without it the {case.unit} falls by {part.effect:.3g}"


def _trust(case: Case) -> str:
    told = case.faithfulness
    figures = (
        f"deletion {told.deletion:.4g} (random order {told.random_deletion:.4g}, lower is better), "
        f"insertion {told.insertion:.4g} (random order {told.random_insertion:.4g}, higher is better)"
    )
    if told.faithful:
        return f"The map is better than chance, and than {told.beaten:.0%} of the random orders in both: {figures}."
    if told.deletion_gain > 0 or told.insertion_gain > 0:
        return f"The map is better than chance by one of two measures only: {figures}."
    return f"The map is no better than chance, so do not rely on it: {figures}."
