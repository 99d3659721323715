"""Reporting the progress of long work, and cancelling it."""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from SpatialARAnomalyLib.engine.specs import Spec


@dataclass(frozen=True, kw_only=True)
class EpochFigures(Spec):
    """Losses of one epoch of a training."""

    epoch: int
    """Number of the epoch, from 1."""
    train_mse: float
    """Mean squared error on the training slices, with feature noise."""
    held_out_nll: float
    """NLL of the held-out scans in nats per channel at equal variances, scans weighing the same."""

    @property
    def train_nll(self) -> float:
        """NLL of the training slices at the best single variance, in nats per channel."""
        return nll_of_mse(self.train_mse)


def nll_of_mse(mse: float) -> float:
    """Return the mean of ½·(ln 2πσ² + e²/σ²) at the best variance, σ² = mean e²."""
    return 0.5 * (math.log(2 * math.pi * max(mse, 1e-12)) + 1.0)


@runtime_checkable
class Reporter(Protocol):
    """Receives the progress of a job; every front end implements its own."""

    def stage(self, name: str, index: int, of: int) -> None:
        """Start stage number `index` (from 1) `of` all stages."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Report that `done` of `total` units of the current stage are finished."""

    def notice(self, code: str, text: str) -> None:
        """Report a message that does not stop the job."""

    def epoch(self, figures: EpochFigures) -> None:
        """Report a finished epoch of the training."""

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the user cancelled the job. Called between batches."""


class SilentReporter:
    """A reporter that discards everything and never cancels."""

    def stage(self, name: str, index: int, of: int) -> None:
        """Do nothing."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Do nothing."""

    def notice(self, code: str, text: str) -> None:
        """Do nothing."""

    def epoch(self, figures: EpochFigures) -> None:
        """Do nothing."""

    def check_cancelled(self) -> None:
        """Do nothing."""
