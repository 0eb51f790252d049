"""The rounds of one way of training."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.utils.data import Dataset

from moezoo.errors import ConfigError, DistributedError, Interrupted, MoeZooError
from moezoo.federated.average import check_update, expert_weighted_average
from moezoo.federated.client import Client
from moezoo.federated.message import Message
from moezoo.federated.result import MethodResult, RoundResult
from moezoo.federated.scores import Score, class_accuracies, client_score
from moezoo.federated.server_model import server_model
from moezoo.federated.split import Layout, ParameterSplit
from moezoo.federated.store import Standing

logger = logging.getLogger(__name__)


@dataclass
class Method:
    """Clients, what they share, and how it is averaged."""

    name: str
    clients: Sequence[Client]
    split: ParameterSplit
    layout: Layout
    standing: Standing
    class_counts: Sequence[Sequence[int]]
    """(clients, classes) of those whose shares the models are judged by: with one trainer for all, more than it."""

    @property
    def steps(self) -> int:
        """Optimiser steps of one round."""
        size = self.clients[0].training
        images = size.batch_size * size.grad_accum_steps
        return sum(-(-client.images // images) * client.local_epochs for client in self.clients)

    def go(self, rounds: int, step: Callable[[int, int], None]) -> Iterator[RoundResult]:
        """The rounds that are left; ``standing`` is up to date whenever one is given out.

        Args:
            rounds: Of the whole course.
            step: Called with the round and the client after every optimiser step; may raise.

        Raises:
            DistributedError: No client finished a round.
        """
        for number in range(len(self.standing.rounds) + 1, rounds + 1):
            yield self._round(number, partial(step, number))

    def _round(self, number: int, step: Callable[[int], None]) -> RoundResult:
        begin = time.perf_counter()
        sent = Message(self.standing.state, number).to_bytes()
        answers: list[Message] = []
        failed: dict[str, str] = {}
        for client in self.clients:
            before = client.local
            try:
                # Through bytes, as between machines: what is not in them cannot be used.
                answer = client.train(Message.from_bytes(sent), partial(step, client.number))
                answer = Message.from_bytes(answer.to_bytes())
                check_update(answer, self.standing.state, self.layout)
                answers.append(answer)
            except Interrupted:
                raise
            except (MoeZooError, RuntimeError, OSError) as error:
                client.local = before
                failed[str(client.number)] = f"{type(error).__name__}: {error}"
                logger.warning("round %d goes on without client %d: %s", number, client.number, error)
        if not answers:
            told = "; ".join(f"client {client}: {reason}" for client, reason in failed.items())
            raise DistributedError(f"no client finished round {number}: {told}")
        self.standing.state = expert_weighted_average(answers, self.standing.state, self.layout)
        self.standing.local = [client.local for client in self.clients]
        images = sum(answer.images for answer in answers)
        result = RoundResult(
            number,
            *self.judge(self.clients[0].splits.val),
            loss=sum(answer.loss * answer.images for answer in answers) / images,
            seconds=time.perf_counter() - begin,
            failed=failed,
        )
        self.standing.rounds.append(result)
        return result

    def result(self) -> MethodResult:
        """Judged on the test images."""
        scores, server = self.judge(self.clients[0].splits.test)
        return MethodResult(tuple(self.standing.rounds), scores, server)

    def judge(self, part: Dataset) -> tuple[tuple[Score, ...], float | None]:
        """Of each client's model, and the accuracy of the shared one."""
        whole = not any(self.standing.local)  # the shared model is everyone's
        same = whole or len(self.clients) == 1
        models = [self._accuracies(self.clients[0].load(self.standing.state), part)] if same else []
        for client in () if same else self.clients:
            models.append(self._accuracies(client.load(self.standing.state), part))
        scores = [client_score(*models[k if len(models) > 1 else 0], own) for k, own in enumerate(self.class_counts)]
        if whole and self.standing.state:
            return tuple(scores), scores[0].everywhere
        return tuple(scores), self._server(part)

    def _server(self, part: Dataset) -> float | None:
        if not self.standing.state:
            return None
        try:
            model = server_model(self.clients[0].model, self.split, self.standing.state)
        except ConfigError:  # the average is right all the same, and complete only with a client's local experts
            return None
        return self._accuracies(model, part)[0]

    def _accuracies(self, model: nn.Module, part: Dataset) -> tuple[float, list[float]]:
        return class_accuracies(model, part, len(self.class_counts[0]), 2 * self.clients[0].training.batch_size)
