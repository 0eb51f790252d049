"""Every error moezoo raises on purpose. Each message names what was given, what is allowed and the nearest spelling."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self


class MoeZooError(Exception):
    """Base class of all moezoo errors."""


class ConfigError(MoeZooError, ValueError):
    """A configuration field or constructor argument is unknown, ill-typed or out of range."""


class UnknownModelError(MoeZooError, LookupError):
    """No model, family, variant or backbone has this name."""


class RegistrationError(MoeZooError, ValueError):
    """A name is registered twice, or is not a valid name."""


class InjectionError(MoeZooError, ValueError):
    """An adapter cannot be injected here; the model is left as it was."""


class InputError(MoeZooError, ValueError):
    """A tensor handed to a model has the wrong shape or type."""


class NonFiniteError(MoeZooError, ArithmeticError):
    """NaN or infinity where a finite number is required."""


class AuxLossError(MoeZooError, RuntimeError):
    """The auxiliary loss cannot carry a gradient as the model was run."""


class OutputError(MoeZooError, OSError):
    """A folder or file cannot be written."""


class RunLockedError(OutputError):
    """Another process owns this run folder; the text says which."""


class CheckpointError(MoeZooError, RuntimeError):
    """A training run cannot be resumed from its checkpoints; the text says what differs or is damaged."""


class Interrupted(MoeZooError):
    """A signal asked the run to stop; the step was finished and saved.

    Args:
        signum: The signal's number.
        place: Where the run stands, for the message.
    """

    def __init__(self, signum: int, place: str = ""):
        self.signum, self.place = signum, place
        self.exit_code = 128 + signum
        """What shells and schedulers expect of a process that a signal ended."""
        name = {2: "SIGINT", 15: "SIGTERM"}.get(signum, f"signal {signum}")
        super().__init__(f"stopped by {name}{place and ': '}{place}")

    def __reduce__(self) -> tuple:  # a worker process hands its error over
        return type(self), (self.signum, self.place)


class DistributedError(MoeZooError, RuntimeError):
    """The processes of one run cannot work together, or one of them is gone."""


class DataError(MoeZooError, ValueError):
    """A data set on disk is missing, incomplete or damaged; the text names the paths that were looked for."""


class UnreadableImage(DataError):
    """An image file cannot be read: ``path`` says which, ``reason`` why."""

    # One argument must do: a DataLoader's worker hands its error over as a text.
    def __init__(self, path: str, reason: str = ""):
        super().__init__(f"{path}: {reason}" if reason else path)
        self.path = path
        self.reason = reason


class ExportError(MoeZooError, RuntimeError):
    """A model cannot be exported, or the exported file does not compute what the model does."""


class MissingPackageError(MoeZooError, ImportError):
    """A package that moezoo only sometimes needs is not installed; the text says how to install it."""


class WeightsError(MoeZooError, RuntimeError):
    """Base class of everything that goes wrong with stored weights."""


class WeightsUnavailable(WeightsError):
    """The weights asked for do not exist or cannot be reached."""


class WeightsCorrupted(WeightsError):
    """A weights file is damaged or is not what it claims to be."""


class WeightsMismatch(WeightsError):
    """A sound weights file does not fit the model."""


class HubError(MoeZooError, RuntimeError):
    """A request to the Hub failed. The text says what, why, what was tried, and what works now."""

    cause = tried = advice = ""
    """The parts of the text, for programs."""

    @classmethod
    def of(cls, what: str, *, cause: str, tried: str, advice: str) -> Self:
        """The error whose text is made of these parts."""
        error = cls(f"{what}: {cause}. {tried}. What works now: {advice}.")
        error.cause, error.tried, error.advice = cause, tried, advice
        return error


class HubUnavailable(HubError, WeightsUnavailable):
    """A file on the Hub does not exist or cannot be reached."""


class NoSuchFile(HubUnavailable):
    """The repository answers, and has no file of this name."""


class HubCorrupted(HubError, WeightsCorrupted):
    """The Hub sent, twice, something else than it had promised, or its cache holds something else."""


class PushError(HubError):
    """A model could not be pushed; the branch is as it was, unless the text says otherwise."""


class PushConflict(PushError):
    """Somebody else pushed to the branch meanwhile; the branch is theirs."""


class MoeZooWarning(UserWarning):
    """Something was worked around; the text says what."""


class MoeZooDeprecationWarning(MoeZooWarning, FutureWarning):
    """A deprecated name was used and mapped to its successor."""
