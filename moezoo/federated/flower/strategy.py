"""The server's side of a round, as Flower calls it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from flwr.common import EvaluateIns, FitIns, Parameters
from flwr.server.client_manager import ClientManager
from flwr.server.strategy import Strategy

from moezoo.errors import DistributedError, MoeZooError
from moezoo.federated.average import check_update, expert_weighted_average
from moezoo.federated.flower.wire import packed, unpacked
from moezoo.federated.message import Message
from moezoo.federated.split import Layout, State

logger = logging.getLogger(__name__)


class ExpertWeighted(Strategy):
    """All clients take part in every round; :func:`~moezoo.federated.expert_weighted_average` puts them together.

    A client that is gone, fails, or sends what cannot be averaged is left out of the round, and counted.

    Args:
        state: The global tensors to begin with.
        layout: Of :func:`~moezoo.federated.split_parameters`.
        clients: How many are waited for before the first round.
        timeout: Seconds that are waited for them.
    """

    def __init__(self, state: State, layout: Layout, *, clients: int, timeout: float = 600.0):
        self.state, self.layout, self.clients, self.timeout = dict(state), layout, clients, timeout
        self.rounds: list[dict[str, Any]] = []
        """Of each round: ``round``, ``clients`` that were averaged, ``images``, ``loss``, ``failed`` with reasons, and
        ``scores`` of the clients."""

    def initialize_parameters(self, client_manager: ClientManager) -> Parameters:
        return packed(Message(self.state))

    def configure_fit(self, server_round: int, parameters: Parameters, client_manager: ClientManager) -> Any:
        if server_round == 1 and not client_manager.wait_for(self.clients, timeout=int(self.timeout)):
            here = client_manager.num_available()
            raise DistributedError(f"{here} of {self.clients} clients came within {self.timeout:g} seconds")
        proxies = list(client_manager.all().values())
        if not proxies:
            raise DistributedError(f"no client is left for round {server_round}")
        ins = FitIns(packed(Message(self.state, server_round)), {"round": server_round})
        return [(proxy, ins) for proxy in proxies]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> tuple[Parameters, dict[str, Any]]:
        answers, failed = [], [_reason(failure) for failure in failures]
        for _, result in results:
            try:
                answer = unpacked(result.parameters)
                check_update(answer, self.state, self.layout)
                answers.append(answer)
            except MoeZooError as error:
                failed.append(f"{type(error).__name__}: {error}")
        for reason in failed:
            logger.warning("round %d goes on without a client: %s", server_round, reason)
        if not answers:
            raise DistributedError(f"no client finished round {server_round}: {'; '.join(failed)}")
        answers.sort(key=lambda answer: answer.client)  # the order they came in would change the rounding
        self.state = expert_weighted_average(answers, self.state, self.layout)
        images = sum(answer.images for answer in answers)
        told: dict[str, Any] = {
            "round": server_round,
            "clients": [answer.client for answer in answers],
            "images": images,
            "loss": sum(answer.loss * answer.images for answer in answers) / images,
            "failed": failed,
            "scores": [],
        }
        self.rounds.append(told)
        return packed(Message(self.state, server_round)), {"images": images, "failed": len(failed)}

    def configure_evaluate(self, server_round: int, parameters: Parameters, client_manager: ClientManager) -> Any:
        ins = EvaluateIns(packed(Message(self.state, server_round)), {"round": server_round})
        return [(proxy, ins) for proxy in client_manager.all().values()]

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> tuple[float | None, dict[str, Any]]:
        scores: Sequence[dict[str, Any]] = sorted((dict(r.metrics) for _, r in results), key=lambda s: s["client"])
        self.rounds[-1]["scores"] = list(scores)
        if not scores:
            return None, {}
        mean = sum(score["everywhere"] for score in scores) / len(scores)
        return 1.0 - mean, {"everywhere": mean}

    def evaluate(self, server_round: int, parameters: Parameters) -> None:
        """The server has no images."""


def _reason(failure: Any) -> str:
    """In one line: an exception of the connection, or what the client said."""
    if isinstance(failure, BaseException):
        return f"a client is gone ({type(failure).__name__})"
    return str(failure[1].status.message)
