"""Small model files in folders, for the tests of the model library."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from engine.model_examples import CARD, small_model
from SpatialARAnomalyLib.engine.model.model_file import SUFFIX, ModelCard, save_model


def add_model(models: Path, name: str, seed: int = 0, file: str | None = None, **values) -> Path:
    """Save a model into a folder of models; `file` is its file's name without the suffix."""
    path = models / f"{file or name}{SUFFIX}"
    card: ModelCard = dataclasses.replace(CARD, name=name, **values)
    save_model(path, card, small_model(seed))
    return path


def change_byte(path: Path, at: int = -1, bits: int = 1) -> None:
    """Flip bits of one byte of a file; by default the last bit, which is a tensor's."""
    content = bytearray(path.read_bytes())
    content[at] ^= bits
    path.write_bytes(content)


def change_card(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the text after the first brace of a header, and nothing of its length or digest."""
    content = path.read_bytes()
    start = content.index(b'"card":')
    changed = content[:start] + change(content[start:])
    assert changed != content
    assert len(changed) == len(content)
    path.write_bytes(changed)


class Stopper:
    """A reporter that notes stages and cancels at a given check."""

    def __init__(self, cancel_at: int = -1) -> None:
        self.stages: list[str] = []
        self.reported: list[tuple[int, int]] = []
        self._left = cancel_at

    def stage(self, name: str, index: int, of: int) -> None:
        """Note it."""
        self.stages.append(name)

    def progress(self, done: int, total: int, unit: str) -> None:
        """Note it."""
        self.reported.append((done, total))

    def notice(self, code: str, text: str) -> None:
        """Ignore it."""

    def epoch(self, figures: object) -> None:
        """Ignore it."""

    def check_cancelled(self) -> None:
        """Cancel at the given check."""
        from SpatialARAnomalyLib.engine.errors import Cancelled

        self._left -= 1
        if self._left == -1:
            raise Cancelled
