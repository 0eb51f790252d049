"""Every error moezoo raises on purpose. Each message names what was given, what is allowed and the nearest spelling."""

from __future__ import annotations


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


class ExportError(MoeZooError, RuntimeError):
    """A model cannot be exported, or the exported file does not compute what the model does."""


class MissingPackageError(MoeZooError, ImportError):
    """A package that moezoo only sometimes needs is not installed; the text says how to install it."""


class WeightsError(MoeZooError, RuntimeError):
    """Base class of everything that goes wrong with stored weights."""


class WeightsUnavailable(WeightsError):
    """The weights asked for do not exist or cannot be reached."""


class NoSuchFile(WeightsUnavailable):
    """The repository answers, and has no file of this name."""


class WeightsCorrupted(WeightsError):
    """A weights file is damaged or is not what it claims to be."""


class WeightsMismatch(WeightsError):
    """A sound weights file does not fit the model."""


class MoeZooWarning(UserWarning):
    """Something was worked around; the text says what."""


class MoeZooDeprecationWarning(MoeZooWarning, FutureWarning):
    """A deprecated name was used and mapped to its successor."""
