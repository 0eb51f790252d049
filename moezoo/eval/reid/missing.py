"""What a model loses when it is shown fewer modalities than it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

from torch import nn

from moezoo.data.reid.splits import ReidPart, ReidSplits
from moezoo.errors import ConfigError
from moezoo.eval.reid.features import extract_each
from moezoo.eval.reid.protocols import protocol_of
from moezoo.eval.reid.report import ReidReport, report_reid
from moezoo.names import did_you_mean


@dataclass(frozen=True)
class MissingMatrix:
    """One report for every choice of the modalities that are there, all of them first."""

    modalities: tuple[str, ...]
    rows: tuple[ReidReport, ...]
    """``row.missing`` says which are not: none, then each alone, then pairs, …, in the order of the modalities."""

    @property
    def full(self) -> ReidReport:
        """With all modalities."""
        return self.rows[0]

    def row(self, *missing: str) -> ReidReport:
        """That without these modalities."""
        present_of(missing, self.modalities)
        return next(row for row in self.rows if set(row.missing) == set(missing))


def missing_modality_matrix(
    model: nn.Module,
    splits: ReidSplits,
    part: str = "test",
    *,
    protocol: str | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> MissingMatrix:
    """Evaluate a model on every choice of modalities: of three 7, the 6 in which something is missing among them.

    Query and gallery lack the same ones. Every image is read once.

    Args:
        model: As of :func:`extract_features`; of several modalities it takes ``present``, (B, M) bool.
        splits: The data set, prepared for the model.
        part: ``"val"`` or ``"test"``.
        protocol: Another rule of :func:`reid_metrics` than the data set's.
        batch_size: Sightings per forward.
        num_workers: Processes that read the images; 0 reads them here.
        progress: Called after every batch with its number of sightings.

    Raises:
        ConfigError: There is no such part or protocol.
        InputError: As of :func:`extract_features`.
    """
    chosen = part_of(splits, part)
    protocol_of(protocol or chosen.protocol)  # a misspelt one is found before anything is computed
    cases = missing_cases(splits.modalities)
    views = [present_of(case, splits.modalities) for case in cases]
    found = extract_each(model, chosen, views, batch_size=batch_size, num_workers=num_workers, progress=progress)
    rows = (
        report_reid(each.features, chosen, missing=case, usage=each.usage, protocol=protocol)
        for case, each in zip(cases, found, strict=True)
    )
    return MissingMatrix(splits.modalities, tuple(rows))


def missing_cases(modalities: Sequence[str]) -> list[tuple[str, ...]]:
    """Every set of modalities that may be missing so that one is left, the smallest first."""
    return [case for count in range(len(modalities)) for case in combinations(modalities, count)]


def present_of(missing: str | Sequence[str] | None, modalities: Sequence[str]) -> tuple[bool, ...]:
    """For each modality whether it is there.

    Raises:
        ConfigError: One of ``missing`` is no modality, or nothing would be left.
    """
    gone = () if missing is None else (missing,) if isinstance(missing, str) else tuple(missing)
    for name in gone:
        if name not in modalities:
            raise ConfigError(
                f"missing={name!r} is not allowed.{did_you_mean(str(name), modalities)} Allowed: "
                f"{', '.join(modalities)}."
            )
    present = tuple(name not in gone for name in modalities)
    if not any(present):
        raise ConfigError(f"missing={gone!r} is not allowed: no modality is left.")
    return present


def part_of(splits: ReidSplits, part: str) -> ReidPart:
    """``"val"`` or ``"test"`` of a data set.

    Raises:
        ConfigError: There is no such part.
    """
    if part not in ("val", "test"):
        raise ConfigError(f"part={part!r} is not allowed: it must be 'val' or 'test'.")
    chosen = getattr(splits, part)
    if chosen is None:
        raise ConfigError(f"{splits.name} has no validation part: val_identities=N sets some of its identities aside.")
    return chosen
