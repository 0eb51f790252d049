"""Federated training: local experts stay with their clients, global experts and the rest of the model are averaged."""

from moezoo.federated.average import check_update, expert_weighted_average
from moezoo.federated.client import Client
from moezoo.federated.clients import share_of
from moezoo.federated.config import FederatedConfig
from moezoo.federated.layer import FederatedMoE
from moezoo.federated.message import Message
from moezoo.federated.partition import class_counts, divide
from moezoo.federated.result import FederatedResult, MethodResult, RoundResult
from moezoo.federated.server_model import server_model
from moezoo.federated.simulate import Federation, simulate
from moezoo.federated.split import Layout, ParameterSplit, split_parameters

__all__ = [
    "Client",
    "FederatedConfig",
    "FederatedMoE",
    "FederatedResult",
    "Federation",
    "Layout",
    "Message",
    "MethodResult",
    "ParameterSplit",
    "RoundResult",
    "check_update",
    "class_counts",
    "divide",
    "expert_weighted_average",
    "server_model",
    "share_of",
    "simulate",
    "split_parameters",
]
