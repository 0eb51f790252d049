"""One client: its images, its local experts, and its training in a round."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field

from torch import Tensor, nn

from moezoo.data import Splits
from moezoo.federated.counting import TokenCount, counting_tokens
from moezoo.federated.message import Message
from moezoo.federated.server_model import SharedView
from moezoo.federated.split import ParameterSplit, State
from moezoo.moe.dial import followers, tell_progress
from moezoo.train.config import TrainingConfig
from moezoo.train.device import make_accelerator
from moezoo.train.modes import run_modes, training_mode
from moezoo.train.parts import Parts, build_parts
from moezoo.train.seeding import mix, seeded


@dataclass
class Client:
    """Trains ``model`` on ``splits.train`` for ``local_epochs`` a round, with an optimiser that begins afresh.

    Clients of a simulation share one ``model``: what is a client's own lies in ``local`` between the rounds.

    Args:
        number: Counted from 0.
        model: Trained in place.
        splits: Its own training images; validation and test are everyone's.
        training: ``epochs`` are those of all rounds together; the schedule of the rate goes over all of them.
        split: Which tensors stay.
        local_epochs: Passes over the images in a round.
        local_dropout: Share of the steps, evenly spread, that leave the local experts out and so train a model that
            can do without them. The others train the whole model.
    """

    number: int
    model: nn.Module
    splits: Splits
    training: TrainingConfig
    split: ParameterSplit
    local_epochs: int = 1
    local: State = field(default_factory=dict)
    local_dropout: float = 0.0

    def __post_init__(self) -> None:
        self.local = self.local or self.split.local_state(self.model)

    @property
    def images(self) -> int:
        return len(self.splits.train)  # type: ignore[arg-type]

    def load(self, state: Mapping[str, Tensor]) -> nn.Module:
        """The model as this client has it, with these global tensors."""
        self.split.load_global(self.model, state)
        self.split.load_local(self.model, self.local)
        return self.model

    def train(self, message: Message, step: Callable[[], None] = lambda: None) -> Message:
        """A round, from the server's message to the answer. Local tensors change only if it succeeds.

        Args:
            message: The global tensors, and which round it is.
            step: Called after every optimiser step; may raise.

        Raises:
            NonFiniteError: A loss or gradient became NaN or infinite.
            DataError: The images cannot be read.
        """
        model = self.load(message.state)
        # Each client's own, and each round's: what is drawn does not depend on who else trains here.
        with (
            seeded(mix(self.training.seed, message.round, self.number)),
            run_modes(model, self.training),
            ExitStack() as stack,
        ):
            accelerator = make_accelerator(self.training)
            model.to(accelerator.device)
            view = SharedView(model, self.split) if self._leaves_out else None
            count = stack.enter_context(counting_tokens(model))
            without = stack.enter_context(counting_tokens(view.model)) if view is not None else None
            parts = build_parts(model, self.splits, self.training, accelerator, stack)
            loss = self._epochs(parts, view, message.round, step)
        model.to("cpu")
        answer = Message(
            self.split.global_state(model),
            round=message.round,
            client=self.number,
            images=self.images,
            tokens=self._tokens(count, without),
            loss=loss,
        )
        self.local = self.split.local_state(model)
        return answer

    @property
    def _leaves_out(self) -> bool:
        return self.local_dropout > 0 and any(self.split.local_experts.values())

    def _tokens(self, whole: TokenCount, shared: TokenCount | None) -> dict[str, tuple[int, ...]]:
        """Of the global experts, in the whole model and in the one without local experts."""
        counts = whole.of(self.split.global_experts)
        if shared is None:
            return counts
        more = shared.of({name: tuple(range(len(left))) for name, left in self.split.global_experts.items()})
        return {name: tuple(a + b for a, b in zip(counts[name], more[name], strict=True)) for name in counts}

    def _epochs(self, parts: Parts, view: SharedView | None, round: int, step: Callable[[], None]) -> float:
        """The mean loss over the images."""
        total, images, whole, told = 0.0, 0, parts.stepper, followers(parts.model)
        training_mode(parts.model)
        if view is not None:
            shared = dataclasses.replace(whole, model=view.model, module=view.model)
            told += followers(view.model)
            training_mode(view.model)
        with parts.reader.naming_crashes():
            for epoch in range((round - 1) * self.local_epochs + 1, round * self.local_epochs + 1):
                before = (epoch - 1) * parts.reader.steps_per_epoch
                for number, (batches, _) in enumerate(parts.reader.steps(epoch, 0), start=before + 1):
                    parts.bad_files.see(skipped for batch in batches for skipped in batch.skipped)
                    parts.schedule.apply(parts.optimizer, number)
                    tell_progress(told, parts.schedule.progress(number))
                    read = [batch for batch in batches if batch.content is not None]
                    if view is not None and _is_left_out(number, self.local_dropout):
                        with view.buffers():
                            values = shared(read)
                    else:
                        values = whole(read)
                    if values.trouble:
                        parts.refusals.see(
                            f"round {round}, epoch {epoch}, step {number - before}", values.trouble, batches
                        )
                    elif values.images:
                        total += values.loss * values.images
                        images += values.images
                    step()
        return total / max(images, 1)


def _is_left_out(number: int, share: float) -> bool:
    """Whether step ``number``, from 1, is one of a ``share`` of all steps that are spread evenly."""
    return math.floor(number * share + 1e-9) > math.floor((number - 1) * share + 1e-9)
