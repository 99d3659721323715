"""What long work tells its caller, and how it is asked to stop."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from SpatialARAnomalyLib.engine.specs import Spec


@dataclass(frozen=True, kw_only=True)
class EpochFigures(Spec):
    """How one epoch of a training went."""

    epoch: int
    """From 1."""
    train_mse: float
    """Mean squared error on the training slices, with feature noise."""
    held_out_nll: float
    """Nats per channel on held-out normal volumes, each volume weighing the same."""


@runtime_checkable
class Reporter(Protocol):
    """Hears the progress of a job; the engine knows nothing of who listens."""

    def stage(self, name: str, index: int, of: int) -> None:
        """A stage begins: the `index`-th (from 1) `of` so many."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """`done` of `total` units of the current stage are finished."""

    def notice(self, code: str, text: str) -> None:
        """Something the user should know, which stops nothing."""

    def epoch(self, figures: EpochFigures) -> None:
        """An epoch of the training is over."""

    def check_cancelled(self) -> None:
        """Raise `Cancelled` if the user asked to stop. Called between batches."""


class SilentReporter:
    """A reporter nobody listens to."""

    def stage(self, name: str, index: int, of: int) -> None:
        """Ignore the stage."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Ignore the progress."""

    def notice(self, code: str, text: str) -> None:
        """Ignore the notice."""

    def epoch(self, figures: EpochFigures) -> None:
        """Ignore the figures."""

    def check_cancelled(self) -> None:
        """Never cancel."""
