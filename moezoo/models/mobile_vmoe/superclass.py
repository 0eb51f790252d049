"""Teaching per-image routers the images' super-classes (Daxberger et al. 2023, "Mobile V-MoEs", section 2.2)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError, InputError
from moezoo.moe.checks import check_positive
from moezoo.moe.routers.per_image import PerImageRouter
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing


class SuperClassLoss:
    """Cross-entropy between routers' choice of an expert and the super-class of an image, to be added to the loss.

    Expert e is for super-class e, so that no loss on balance is needed. The paper's super-classes are groups of classes
    that a dense model confuses; any division will do.

    Args:
        model: With per-image routers, whose last forward is looked at.
        super_class_of: For each class its super-class, from 0 to below the number of experts; an array will do.
        weight: The paper's lambda.

    Raises:
        ConfigError: There is no per-image router, or a super-class without an expert.
    """

    def __init__(self, model: nn.Module, super_class_of: Sequence[int] | Tensor, weight: float = 0.3):
        routers = [m for m in model.modules() if isinstance(m, PerImageRouter)]
        if not routers:
            raise ConfigError(f"{type(model).__name__} has no per-image router for super-classes to teach.")
        fewest = min(router.num_experts for router in routers)
        given: list[int] = super_class_of.tolist() if hasattr(super_class_of, "tolist") else list(super_class_of)
        wrong = [s for s in given if isinstance(s, bool) or not isinstance(s, int) or not 0 <= s < fewest]
        if wrong or not given:
            told = f"{wrong[0]!r} is no super-class" if wrong else "there are none"
            raise ConfigError(f"super_class_of: {told}; allowed are 0 to {fewest - 1}, one for each class.")
        self.weight = check_positive("weight", weight)
        self._super_class_of = torch.tensor(given)
        self._last: dict[int, Tensor] = {}
        self._handles = [r.register_forward_hook(partial(self._note, i)) for i, r in enumerate(routers)]

    def __call__(self, labels: Tensor) -> Tensor:
        """``weight`` times the mean over the routers.

        Args:
            labels: (B,) classes of the images of the model's last forward.

        Raises:
            InputError: There was no forward, or it was of other images; or labels are no classes.
        """
        if not self._last:
            raise InputError("the super-class loss looks at the model's last forward, and there was none.")
        self._check_labels(labels)
        target = self._super_class_of.to(labels.device)[labels]
        wrong = [len(logits) for logits in self._last.values() if len(logits) != len(labels)]
        if wrong:
            raise InputError(f"{len(labels)} labels were given for the {wrong[0]} images of the model's last forward.")
        losses = [F.cross_entropy(logits, target) for logits in self._last.values()]
        return self.weight * torch.stack(losses).mean()

    def remove(self) -> None:
        """Stop looking."""
        for handle in self._handles:
            handle.remove()
        self._last.clear()

    def _check_labels(self, labels: Tensor) -> None:
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.dim() != 1:
            got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
            raise InputError(f"labels must be an int64 tensor (B,) of classes, got {got}")
        classes = len(self._super_class_of)
        wrong = labels[(labels < 0) | (labels >= classes)].tolist()  # a negative one would be some other class
        if wrong:
            raise InputError(f"labels must be classes of super_class_of, from 0 to {classes - 1}, got {wrong[0]}")

    def _note(self, position: int, router: nn.Module, args: tuple, routing: Routing) -> None:
        if not recomputing() and routing.num_tokens:
            self._last[position] = routing.logits.unflatten(0, (routing.samples, -1))[:, 0]

    def __getstate__(self) -> dict[str, Any]:  # copied with a model, whose last forward a copy has not seen
        return {**self.__dict__, "_last": {}}
