"""Folders of small models, for the tests of the model library."""

import dataclasses
from pathlib import Path

from Engine.model_examples import CARD, small_model
from SpatialARAnomalyLib.engine.model_store import ModelCard, save_model


def add_model(models: Path, name: str, seed: int = 0, folder: str | None = None, **values) -> Path:
    """Save a model into a folder of models; its folder."""
    place = models / (folder or name)
    card: ModelCard = dataclasses.replace(CARD, name=name, **values)
    save_model(place, card, small_model(seed))
    return place


class Stopper:
    """A reporter that notes stages and cancels at a given question."""

    def __init__(self, cancel_at: int = -1) -> None:
        self.stages: list[str] = []
        self.told: list[tuple[int, int]] = []
        self._left = cancel_at

    def stage(self, name: str, index: int, of: int) -> None:
        """Note it."""
        self.stages.append(name)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Note it."""
        self.told.append((done, total))

    def notice(self, code: str, text: str) -> None:
        """Ignore it."""

    def epoch(self, figures: object) -> None:
        """Ignore it."""

    def check_cancelled(self) -> None:
        """Cancel, if it is time to."""
        from SpatialARAnomalyLib.engine.errors import Cancelled

        self._left -= 1
        if self._left == -1:
            raise Cancelled
