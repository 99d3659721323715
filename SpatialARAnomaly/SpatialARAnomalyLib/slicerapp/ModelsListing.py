"""The models of a folder, read a few at a time so that Slicer stays alive."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..service.model_list import ModelEntry, ModelRow, as_row, read_models
from .ArrayTransfer import Transfer


@dataclass(frozen=True)
class ListedModel:
    """A model and what the table says of it."""

    entry: ModelEntry
    row: ModelRow


class ModelsListing:
    """Lists a folder; `onEnd` gets the models, or those found until an error. A newer one wins."""

    def __init__(self, onEnd: Callable[[list[ListedModel]], None]) -> None:
        self._onEnd = onEnd
        self._transfer: Transfer | None = None

    @property
    def running(self) -> bool:
        """Whether a folder is being read."""
        return self._transfer is not None

    def start(self, folder: Path) -> None:
        """Begin to read a folder."""
        self.cancel()
        models: list[ListedModel] = []

        def steps() -> Iterator[None]:
            for entry in read_models(folder):
                yield
                models.append(ListedModel(entry, as_row(entry)))
                yield

        def ended(error: Exception | None) -> None:
            self._transfer = None
            self._onEnd(models)
            if error is not None:
                raise error

        self._transfer = Transfer(steps(), ended)

    def cancel(self) -> None:
        """Stop; `onEnd` is not called."""
        if self._transfer is not None:
            self._transfer.cancel()
            self._transfer = None
