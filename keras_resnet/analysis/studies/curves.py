"""Results of training studies: errors by epoch and seed, and findings about them."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

#: Errors by seed, then by epoch.
Errors = tuple[tuple[float, ...], ...]

#: Mean and standard deviation over seeds; the deviation of a single seed is None.
MeanAndDeviation = tuple[float, float | None]


@dataclass(frozen=True)
class NetworkCurves:
    """The top-1 errors of one network, in [0, 1], by seed and epoch.

    Attributes:
        name: name such as `plain-20`.
        depth: number of weighted layers.
        shortcut: `"A"`, `"B"`, `"C"`, or None for a plain network.
        params: number of trainable parameters.
        macs: multiply-accumulate operations for one image.
        train_errors: for each seed, the error of each epoch on its augmented training images, as
            classified during training with the batch statistics in batch normalization. This is the
            training error in Figures 1, 4 and 6 of He et al. 2015.
        test_errors: for each seed, the error after each epoch on held-out images, with the moving
            statistics.
        seconds_per_step: median time of a training step.
        diverged: the seeds whose training diverged; from that epoch on, both errors are those of
            guessing, `1 - 1 / classes`.
    """

    name: str
    depth: int
    shortcut: str | None
    params: int
    macs: int
    train_errors: Errors
    test_errors: Errors
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

    def error_text(self, error: MeanAndDeviation) -> str:
        """Return an error of this network as text, with the number of trainings that diverged."""
        count = f", {len(self.diverged)} diverged" if self.diverged else ""
        return in_percent(error) + count

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, with means and standard deviations by epoch."""
        summary: dict[str, list[float | None]] = {}
        for split in ("train", "test"):
            by_epoch = zip(*getattr(self, f"{split}_errors"), strict=True)
            values = [mean_and_deviation(errors) for errors in by_epoch]
            summary[f"{split}_error_mean"] = [mean for mean, _ in values]
            summary[f"{split}_error_deviation"] = [deviation for _, deviation in values]
        return {**dataclasses.asdict(self), **summary}


def mean_and_deviation(values: Sequence[float]) -> MeanAndDeviation:
    """Return the mean and the sample standard deviation, which is None for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def in_percent(error: MeanAndDeviation) -> str:
    """Return a mean and its standard deviation in percent, as text."""
    mean, deviation = error
    spread = "" if deviation is None else f" ± {100 * deviation:.2f}"
    return f"{100 * mean:.2f}{spread} %"


@dataclass(frozen=True)
class Finding:
    """The finding on a claim: whether the errors confirm it, and a sentence about them."""

    shown: bool
    sentence: str


@dataclass(frozen=True)
class TrainingStudy:
    """Networks trained with the same recipe, and the findings about their errors.

    Attributes:
        networks: the errors of each network.
        seeds: seeds of initialization, data order and augmentation; each network is trained once
            with every seed.
        findings: claim -> finding.
        settings: data, sizes, recipe and versions; JSON-serializable.
    """

    networks: tuple[NetworkCurves, ...]
    seeds: tuple[int, ...]
    findings: Mapping[str, Finding]
    settings: Mapping[str, Any]

    @property
    def shown(self) -> bool:
        """Return whether all claims are confirmed."""
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
