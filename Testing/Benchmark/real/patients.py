"""A patient's images: what the encoder gets, and where its scores are compared with the truth."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float


@dataclass(frozen=True, eq=False)
class Compared:
    """The scores of one slice on the pixels of its truth."""

    scores: Float[np.ndarray, "r c"]
    body: Bool[np.ndarray, "r c"]
    lesion: Bool[np.ndarray, "r c"]


class Patient(ABC):
    """The images of one patient."""

    name: str
    """Name that only this patient has; in no result."""

    @property
    @abstractmethod
    def sha256(self) -> str:
        """Hash of the files of the images."""

    @property
    @abstractmethod
    def truth_sha256(self) -> str:
        """Hash of the files of the ground truth."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    @abstractmethod
    def images(self) -> Iterator[Float[np.ndarray, "b 1 s s"]]:
        """Yield the images for the encoder, in [0, 1], in batches."""

    @abstractmethod
    def inside(self) -> Bool[np.ndarray, "n h w"]:
        """Return the mask of the tokens that count."""

    @abstractmethod
    def compared(self, scores: Float[np.ndarray, "n h w"] | None) -> Iterator[Compared]:
        """Yield token scores on the pixels of every slice; without scores, the brightness."""


@dataclass(frozen=True)
class Patients:
    """A data set."""

    training: Sequence[Patient]
    """Normal images only."""
    test: Sequence[Patient]
    preparation: str
    """Version and settings of the way from files to images: identifies stored tokens."""
    about: dict[str, str]
    """Description of the data in the tables."""
