"""Results of training studies: errors by epoch and seed, and sentences about them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Table = tuple[tuple[float, ...], ...]

#: The deviation of a single seed is None.
MeanAndDeviation = tuple[float, float | None]


@dataclass(frozen=True)
class NetworkCurves:
    """The errors of one network, in [0, 1], by seed and epoch.

    Attributes:
        name: such as `plain-20`.
        depth: weighted layers.
        shortcut: `"A"`, `"B"`, `"C"`, or None of a plain network.
        params: trainable parameters.
        macs: multiply-accumulates of one image.
        train_errors: a row per seed with a value per epoch: the share of the epoch's training
            images, as they are augmented, that the network misclassifies while it learns, with the
            batches' own statistics in batch normalisation. This is the training error of He et al.
            2015, Figures 1, 4 and 6.
        test_errors: likewise, of the held-out images, after the epoch, with moving statistics.
        seconds_per_step: the median over all training steps.
        diverged: the seeds whose training diverged. From that epoch on, both errors are those of
            guessing, `1 - 1 / classes`.
    """

    name: str
    depth: int
    shortcut: str | None
    params: int
    macs: int
    train_errors: Table
    test_errors: Table
    seconds_per_step: float
    diverged: tuple[int, ...] = ()

    @property
    def train_error(self) -> MeanAndDeviation:
        """Mean and standard deviation over the seeds of the training error of the last epoch."""
        return mean_and_deviation([row[-1] for row in self.train_errors])

    @property
    def test_error(self) -> MeanAndDeviation:
        """Mean and standard deviation over the seeds of the test error after the last epoch."""
        return mean_and_deviation([row[-1] for row in self.test_errors])

    def said(self, error: MeanAndDeviation) -> str:
        """Return one of its errors as text, with the number of trainings that diverged."""
        count = f", {len(self.diverged)} diverged" if self.diverged else ""
        return in_percent(error) + count

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with means and standard deviations by epoch."""
        summary: dict[str, list[float | None]] = {}
        for part in ("train", "test"):
            columns = zip(*getattr(self, f"{part}_errors"), strict=True)
            values = [mean_and_deviation(column) for column in columns]
            summary[f"{part}_error_mean"] = [mean for mean, _ in values]
            summary[f"{part}_error_deviation"] = [deviation for _, deviation in values]
        return {**dataclasses.asdict(self), **summary}


def mean_and_deviation(values: Sequence[float]) -> MeanAndDeviation:
    """Return the mean and the sample standard deviation, which is None of a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def in_percent(error: MeanAndDeviation) -> str:
    """Return a mean and its standard deviation in percent, as text."""
    mean, deviation = error
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:.2f}{spread} %"


@dataclass(frozen=True)
class Finding:
    """The finding on one claim: whether the numbers show it, and a sentence."""

    shown: bool
    sentence: str


@dataclass(frozen=True)
class TrainingStudy:
    """Networks trained under one recipe.

    Attributes:
        networks: their errors.
        seeds: of initialisation, order and augmentation: one training per network and seed.
        findings: claim -> what the numbers say of it.
        settings: data, sizes, recipe and versions, fit for JSON.
    """

    networks: tuple[NetworkCurves, ...]
    seeds: tuple[int, ...]
    findings: Mapping[str, Finding]
    settings: Mapping[str, Any]

    @property
    def shown(self) -> bool:
        """Whether all claims are shown."""
        return all(finding.shown for finding in self.findings.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {
            **self.settings,
            "seeds": list(self.seeds),
            "shown": self.shown,
            "findings": {key: dataclasses.asdict(value) for key, value in self.findings.items()},
            "networks": [network.to_dict() for network in self.networks],
        }
