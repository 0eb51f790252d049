"""Federated training on one machine: the clients take turns."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from moezoo.config import to_dict
from moezoo.data import Splits
from moezoo.errors import ConfigError, Interrupted
from moezoo.federated.clients import check_left_out, client_of, labelled, labels_of, shares
from moezoo.federated.config import METHODS, FederatedConfig
from moezoo.federated.partition import class_counts
from moezoo.federated.progress import Unwatched, Watcher
from moezoo.federated.result import FederatedResult
from moezoo.federated.rounds import Method
from moezoo.federated.split import ParameterSplit, split_parameters
from moezoo.federated.store import Standing, checkpoint_path, drop_standings, load_standing, save_standing
from moezoo.train import TrainingConfig, probe_folder
from moezoo.train.config import LIVE_FIELDS
from moezoo.train.digest import digest
from moezoo.train.facts import run_facts
from moezoo.train.lock import own_run_folder
from moezoo.train.output import write_json
from moezoo.train.signals import StopSignals
from moezoo.train.tasks import AnySplits, choose_task


@dataclass(frozen=True)
class Federation:
    """A finished simulation: the figures, and the models they are of."""

    result: FederatedResult
    model: nn.Module
    split: ParameterSplit
    state: Mapping[str, Tensor]
    """The global tensors."""
    local: Sequence[Mapping[str, Tensor]]
    """Each client's own."""

    def client_model(self, client: int) -> nn.Module:
        """The whole model of one client, in evaluation mode: the global tensors and its own."""
        model = copy.deepcopy(self.model).eval()
        self.split.load_global(model, self.state)
        self.split.load_local(model, self.local[client])
        return model


def simulate(
    model: nn.Module,
    splits: AnySplits,
    config: FederatedConfig | None = None,
    *,
    training: TrainingConfig | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    watcher: Watcher | None = None,
    **options: Any,
) -> Federation:
    """Train ``model`` at several clients that never show each other their images or their local experts.

    A round: each client gets the global tensors, trains the whole model on its images and gives the global tensors
    back, which are averaged (:func:`~moezoo.federated.expert_weighted_average`). In a share of its steps
    (``local_dropout``) a client leaves its local experts out: so what is shared is a model of its own, and local
    experts add to it. A client whose training fails, or whose update holds NaN, is left out of the round, and counted.
    After each round the shared model and every client's whole model are judged on ``splits.val``; after the last one,
    which nothing was chosen by, on ``splits.test``.

    Baselines begin with the same weights and take the same number of epochs, with an optimiser that begins afresh as
    often: every client alone, plain averaging of everything, and one model on all images.

    Args:
        model: With MoE layers; it is left as it is.
        splits: A data set with labels.
        config: Who trains with whom; or give its fields as ``options``: ``clients=4, rounds=10, alpha=0.3``.
        training: How a client trains; ``epochs`` is set to those of all rounds together.
        out: Folder for ``checkpoints/`` and ``federated.json``. The same call goes on from the newest round there.
        overwrite: Drop the simulation that ``out`` holds.
        watcher: Is told about steps and rounds, for example a :class:`~moezoo.federated.progress.FederatedBar`.

    Raises:
        ConfigError: A setting is not allowed, or does not fit the model or the data.
        DataError: A client would have too few images.
        CheckpointError: ``out`` holds another simulation; what differs is named.
        DistributedError: No client finished a round.
        Interrupted: SIGTERM or SIGINT came; the rounds before are kept.
        OutputError: ``out`` cannot be written.
    """
    config = dataclasses.replace(config or FederatedConfig(), **options)
    training = config.training(training or TrainingConfig())
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("a simulation runs in one process: start it without a launcher of processes.")
    splits = labelled(splits)
    choose_task(model, splits, training)
    if overwrite and out is None:
        raise ConfigError("overwrite needs out, the folder of the simulation")
    with ExitStack() as stack:
        folder = None
        if out is not None:
            folder = probe_folder(Path(out))
            stack.enter_context(own_run_folder(folder))
            if overwrite:
                drop_standings(folder, list(METHODS))
        signals = stack.enter_context(StopSignals())
        return _Simulation(model, splits, config, training, folder, watcher or Unwatched(), signals).run()


class _Simulation:
    """The methods one after the other."""

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        config: FederatedConfig,
        training: TrainingConfig,
        folder: Path | None,
        watcher: Watcher,
        signals: StopSignals,
    ):
        self.begin = model
        self.splits, self.config, self.training = splits, config, training
        self.folder, self.watcher, self.signals = folder, watcher, signals
        self.split = split_parameters(model, config.local_experts)
        check_left_out(model, self.split, config)
        labels = labels_of(splits.train)
        self.parts = shares(labels, config, training.seed)
        self.class_counts = class_counts(labels, self.parts, splits.num_classes)
        self.facts = self._facts()

    def run(self) -> Federation:
        methods = [self._method(name) for name in ("federated", *self.config.baselines)]
        total = sum(m.steps * self.config.rounds for m in methods)
        self.done = sum(m.steps * len(m.standing.rounds) for m in methods)
        self.watcher.begin(total, self.done)
        try:
            for method in methods:
                self._train(method)
        finally:
            self.watcher.stop()
        result = FederatedResult(
            facts=self.facts,
            label_names=tuple(self.splits.label_names),
            class_counts=tuple(tuple(row) for row in self.class_counts),
            local_experts=self.split.local_experts,
            sent={
                "global": sum(t.numel() for t in methods[0].standing.state.values()),
                "local": sum(t.numel() for t in methods[0].standing.local[0].values()),
            },
            methods={method.name: method.result() for method in methods},
        )
        if self.folder is not None:
            write_json(self.folder / "federated.json", result.to_dict())
        standing = methods[0].standing
        return Federation(result, self.begin, self.split, standing.state, standing.local)

    def _train(self, method: Method) -> None:
        def step(round: int, client: int) -> None:
            self.done += 1
            self.watcher.step(self.done, method.name, round, client)
            if self.signals.requested is not None:
                kept = "the same call goes on from it" if self.folder is not None else "nothing was to be kept"
                raise Interrupted(self.signals.requested, f"{method.name}, round {round} begins afresh: {kept}")

        for result in method.go(self.config.rounds, step):
            if self.folder is not None:
                save_standing(checkpoint_path(self.folder, method.name), method.standing, self.facts)
            self.watcher.round(method.name, result)

    def _method(self, name: str) -> Method:
        model = copy.deepcopy(self.begin)
        split, layout, parts = self.split, self.split.layout, self.parts
        if name == "fedavg":
            split = split_parameters(model, ())
            layout = split.layout.without_experts()
        elif name in ("local", "central"):
            split = split.all_local(model)
            layout = split.layout
            parts = [sorted(i for part in parts for i in part)] if name == "central" else parts
        begin = split.local_state(model)
        standing = Standing([], split.global_state(model), [begin for _ in parts])
        if self.folder is not None:
            standing = load_standing(checkpoint_path(self.folder, name), self.facts) or standing
        clients = [
            client_of(number, model, self.splits, part, self.training, split, self.config, local)
            for number, (part, local) in enumerate(zip(parts, standing.local, strict=True))
        ]
        return Method(name, clients, split, layout, standing, self.class_counts)

    def _facts(self) -> dict[str, Any]:
        config = {
            field.name: getattr(self.config, field.name)
            for field in dataclasses.fields(self.config)
            if field.name not in ("partition", "baselines", "local_experts")
        }
        training = {key: value for key, value in to_dict(self.training).items() if key not in LIVE_FIELDS}
        partition = self.config.partition if isinstance(self.config.partition, str) else "given"
        return {
            **run_facts(self.begin, self.splits),
            "federated": {**config, "partition": partition, "images": digest(self.parts)},
            "local_experts": {name: list(local) for name, local in self.split.local_experts.items()},
            "training": training,
        }
