"""Explaining single decisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import NonFiniteError
from moezoo.eval.explanation.effects import expert_parts, modality_effects, scores_and_shares
from moezoo.eval.explanation.erasing import cell_grid, filling
from moezoo.eval.explanation.faithfulness import faithfulness
from moezoo.eval.explanation.gates import gate_weights, scale_names
from moezoo.eval.explanation.given import check_images, spectra_there, spectrum_names, stacked_spectra
from moezoo.eval.explanation.kind import decision_of
from moezoo.eval.explanation.region import find_region
from moezoo.eval.explanation.result import Case, Explanation, ModalityPart
from moezoo.eval.explanation.saliency import integrated_gradients, occlusion
from moezoo.eval.explanation.scoring import Progress, Scorer
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.modes import evaluating

METHODS = ("occlusion", "gradient")


def explain_decision(
    model: nn.Module,
    images: Tensor,
    *,
    target: int | Sequence[int] | None = None,
    match: Tensor | None = None,
    against: Tensor | None = None,
    present: Tensor | None = None,
    match_present: Tensor | None = None,
    method: str = "occlusion",
    cells: tuple[int, int] | None = None,
    fill: str = "mean",
    steps: int = 16,
    random_orders: int = 4,
    batch_size: int = 32,
    seed: int = 0,
    label_names: Sequence[Any] | None = None,
    progress: Progress | None = None,
) -> Explanation:
    """Which spectrum, region, scale and expert decided, and whether that holds: measured, by leaving each of them out.

    What is explained is the log odds of the predicted class; of a model that gives features, their cosine with those
    of ``match`` (or how alike they stay to those of the whole image), less the mean cosine to ``against``. A spectrum
    and a region count by how much that falls when they are erased, an expert by how much it falls without its results.
    The map of regions is held against random orders of its cells by deletion and insertion (:class:`Faithfulness`).

    Args:
        model: Any model of the zoo, with MoE layers or without; run in evaluation mode, and left as it was.
        images: (B, C, H, W), or (B, M, C, H, W) of a model of M spectra; (M, C, H, W) is no batch.
        target: Class to explain, or one per image; by default the predicted one.
        match: For features: images like ``images`` that they are compared with, such as the gallery's.
        against: For features: K images of others, shaped as ``images`` are but for B, all spectra there. With them the
            explanation is of what tells the match from others; without, what all images have in common counts too.
        present: (B, M) bool: which spectra there are.
        match_present: The same of ``match``.
        method: ``occlusion``, which takes a forward per cell and spectrum; or ``gradient`` (integrated gradients),
            which takes ``steps`` forwards and backwards, of models that are smooth in their images.
        cells: Rows and columns of the map; by default 8 along the longer side.
        fill: What stands in erased cells: the image's ``mean`` by channel, or its ``blur``.
        steps: Points of a curve of deletion or insertion, and of the line of integrated gradients.
        random_orders: To compare deletion and insertion with.
        batch_size: Images or variants of them per forward.
        seed: Of the random orders.
        label_names: Of all classes; by default ``model.label_names``.
        progress: Told after every batch what is done: ``progress(what, done, of)``.

    Raises:
        ConfigError: An argument is out of range, or does not fit the kind of model.
        InputError: ``images``, ``match`` or ``present`` have the wrong shape.
        NonFiniteError: Images or the model's answer are not finite.
    """
    check_choice("method", method, METHODS)
    for name, number in {"steps": steps, "random_orders": random_orders, "batch_size": batch_size}.items():
        check_int(name, number, low=1)
    check_images("images", images)
    images = images.detach().cpu()  # variants of it go to the model batch by batch
    flat, stacked = images.dim() == 4, stacked_spectra(images)
    alive = spectra_there(present, stacked)
    with evaluating(model):
        decision = decision_of(
            model,
            images,
            present,
            target=target,
            label_names=label_names,
            match=match,
            match_present=match_present,
            against=against,
            batch_size=batch_size,
        )
    grid = cell_grid((images.shape[-2], images.shape[-1]), cells)
    filled = filling(stacked, fill)
    scorer = Scorer(decision, stacked, filled, flat=flat, batch_size=batch_size, progress=progress)
    names = spectrum_names(model, stacked.shape[1])
    with evaluating(model):
        nothing = torch.zeros(*alive.shape, *grid, dtype=torch.bool)
        whole, shares = scores_and_shares(model, scorer, alive, nothing)
        if not bool(whole.isfinite().all()):
            raise NonFiniteError("the model's answer is not finite (NaN): there is no decision to explain")
        if method == "occlusion":
            saliency = occlusion(scorer, whole, alive, grid)
        else:
            saliency = integrated_gradients(scorer, alive, grid, steps)
        lost = modality_effects(scorer, whole, alive, nothing)
        experts = expert_parts(model, shares, scorer, whole, nothing)
        trust = faithfulness(
            scorer,
            saliency,
            alive,
            steps=steps,
            random_orders=random_orders,
            generator=torch.Generator().manual_seed(seed),
        )
        told = gate_weights(model, images, present, batch_size)
    gates, scale_gates = told.modalities, told.scales
    scales = () if scale_gates is None else scale_names(model, scale_gates.shape[-1])
    cases = []
    for case in range(len(images)):
        parts = tuple(
            ModalityPart(
                name,
                bool(alive[case, m]),
                float(lost[case, m]),
                None if gates is None else float(gates[case, m]),
                None if scale_gates is None else tuple(scale_gates[case, m].tolist()),
            )
            for m, name in enumerate(names)
        )
        cases.append(
            Case(
                decision=decision.says(case, float(whole[case])),
                unit=decision.unit,
                score=float(whole[case]),
                modalities=parts,
                experts=tuple(own[case] for own in experts),
                region=find_region(saliency[case].numpy(), names),
                saliency=tuple(tuple(tuple(row) for row in each) for each in saliency[case].tolist()),
                faithfulness=trust[case],
            )
        )
    return Explanation(method=method, fill=fill, cases=tuple(cases), scales=scales)


class ExplainableMoE:
    """Any model, with its explanations.

    Args:
        model: Stays where it is and as it is.
        options: Of :func:`explain_decision`, for every explanation.
    """

    def __init__(self, model: nn.Module, **options: Any):
        self.model, self.options = model, options

    def explain_decision(self, x: Tensor, **options: Any) -> Explanation:
        """:func:`explain_decision` of the model and images ``x``."""
        return explain_decision(self.model, x, **{**self.options, **options})
