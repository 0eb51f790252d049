"""A client as Flower calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flwr.client import Client as FlowerBase
from flwr.common import Code, EvaluateIns, EvaluateRes, FitIns, FitRes, Status

from moezoo.errors import MoeZooError
from moezoo.federated.client import Client
from moezoo.federated.flower.wire import packed, unpacked
from moezoo.federated.scores import class_accuracies, client_score

OK = Status(Code.OK, "")


@dataclass
class FlowerClient(FlowerBase):
    """Trains when asked to; a round that fails is told to the server, and the next one may succeed.

    Args:
        client: What is trained.
        class_counts: (classes,) its training images of each class, for the accuracy on images like its own.
    """

    client: Client
    class_counts: list[int]
    scores: Mapping[str, Any] | None = None
    """Of the newest evaluation."""

    def fit(self, ins: FitIns) -> FitRes:
        who: dict[str, Any] = {"client": self.client.number}
        before = self.client.local
        try:
            answer = self.client.train(unpacked(ins.parameters))
        except (MoeZooError, RuntimeError, OSError) as error:
            self.client.local = before
            said = f"client {self.client.number}: {type(error).__name__}: {error}"
            return FitRes(Status(Code.FIT_NOT_IMPLEMENTED, said), packed(None), 0, who)
        return FitRes(OK, packed(answer), answer.images, who)

    def evaluate(self, ins: EvaluateIns) -> EvaluateRes:
        """On the validation images; leaves the model with these global tensors and the client's own."""
        model, splits = self.client.load(unpacked(ins.parameters).state), self.client.splits
        found = class_accuracies(model, splits.val, len(self.class_counts), 2 * self.client.training.batch_size)
        score = client_score(*found, self.class_counts)
        self.scores = {"client": self.client.number, "everywhere": score.everywhere, "own": score.own}
        return EvaluateRes(OK, 1.0 - score.everywhere, self.client.images, dict(self.scores))
